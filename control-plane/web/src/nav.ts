// The pages in each face's navigation, and what each needs.

import {
  Activity,
  Bell,
  Boxes,
  Building2,
  ClipboardList,
  Cpu,
  FolderKanban,
  HardDrive,
  KeyRound,
  LayoutDashboard,
  ListChecks,
  PackageOpen,
  Radar,
  Server,
  ShieldCheck,
  Users,
  Webhook,
} from 'lucide-vue-next'
import type { Component } from 'vue'
import type { Permission } from '@/api/client'
import type { Face } from '@/stores/settings'

export interface PageLink {
  /** Its text is `nav.NAME`. */
  name: string
  to: string
  icon: Component
  needs: Permission
}

export interface Group {
  /** Its text is `nav.NAME`; none for the first. */
  name: string
  pages: PageLink[]
}

const operations: Group[] = [
  {
    name: '',
    pages: [
      { name: 'overview', to: '/', icon: LayoutDashboard, needs: 'sites.read' },
      { name: 'sites', to: '/sites', icon: Building2, needs: 'sites.read' },
    ],
  },
  {
    name: 'inventory',
    pages: [
      { name: 'machines', to: '/machines', icon: Server, needs: 'machines.read' },
      { name: 'discovered', to: '/discovered', icon: Radar, needs: 'machines.read' },
      { name: 'machineTypes', to: '/machine-types', icon: Cpu, needs: 'machines.read' },
      { name: 'stock', to: '/stock', icon: PackageOpen, needs: 'machines.read' },
      { name: 'images', to: '/images', icon: HardDrive, needs: 'images.read' },
    ],
  },
  {
    name: 'work',
    pages: [
      { name: 'instances', to: '/instances', icon: Boxes, needs: 'instances.read' },
      { name: 'jobs', to: '/jobs', icon: ListChecks, needs: 'jobs.read' },
    ],
  },
  {
    name: 'watch',
    pages: [
      { name: 'alerts', to: '/alerts', icon: Bell, needs: 'alerts.read' },
      { name: 'events', to: '/events', icon: Activity, needs: 'events.read' },
      { name: 'audit', to: '/audit', icon: ClipboardList, needs: 'audit.read' },
      { name: 'webhooks', to: '/webhooks', icon: Webhook, needs: 'webhooks.read' },
    ],
  },
  {
    name: 'people',
    pages: [
      { name: 'projects', to: '/projects', icon: FolderKanban, needs: 'projects.read' },
      { name: 'users', to: '/users', icon: Users, needs: 'users.read' },
      { name: 'roles', to: '/roles', icon: ShieldCheck, needs: 'roles.read' },
      { name: 'keys', to: '/signing-keys', icon: KeyRound, needs: 'sites.read' },
    ],
  },
]

const tenants: Group[] = [
  {
    name: '',
    pages: [
      { name: 'home', to: '/projects', icon: FolderKanban, needs: 'projects.read' },
      { name: 'instances', to: '/instances', icon: Boxes, needs: 'instances.read' },
      { name: 'jobs', to: '/jobs', icon: ListChecks, needs: 'jobs.read' },
      { name: 'images', to: '/images', icon: HardDrive, needs: 'images.read' },
      { name: 'events', to: '/events', icon: Activity, needs: 'events.read' },
    ],
  },
]

/** The groups of a face that have a page somebody with these permissions may see. */
export function groupsOf(face: Face, can: (permission: Permission) => boolean): Group[] {
  return (face === 'console' ? tenants : operations)
    .map((group) => ({ ...group, pages: group.pages.filter((page) => can(page.needs)) }))
    .filter((group) => group.pages.length > 0)
}
