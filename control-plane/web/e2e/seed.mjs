// Something to look at, through the API: people, projects, types, rules, keys.

const { SLIPWAY_URL: url, SLIPWAY_NAME: name, SLIPWAY_PASSWORD: password } = process.env

const login = await fetch(`${url}/api/v1/login`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ name, password }),
})
const cookie = login.headers.get('set-cookie').split(';')[0]
const { csrf } = await login.json()

async function call(method, path, body) {
  const answer = await fetch(`${url}/api/v1/${path}`, {
    method,
    headers: { 'content-type': 'application/json', cookie, 'x-csrf-token': csrf },
    body: JSON.stringify(body),
  })
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
  return answer.status === 204 ? null : answer.json()
}

await call('POST', 'projects', { id: 'web-shop', description: 'The shop and what is behind it' })
for (const [user, role, scope] of [
  ['wang-li', 'operator', 'global'],
  ['ines', 'member', 'project:web-shop'],
]) {
  const made = await call('POST', 'users', {
    name: user,
    email: `${user}@example.net`,
    password: 'a-long-password',
  })
  await call('POST', `users/${made.id}/grants`, { role, scope })
}
await call('PUT', 'machine-types/small', {
  description: 'One processor',
  priority: 1,
  rules: { threads: { min: 1 } },
})
await call('PUT', 'projects/web-shop/quotas/small', { machines: 4 })
await call('PUT', 'roles/image-keeper', { permissions: ['images.read', 'images.write'] })
await call('POST', 'alert-rules', { name: 'site-silent', condition: { is: 'site_offline', seconds: 300 } })
await call('POST', 'alert-rules', { name: 'install-failed', condition: { is: 'job_failed' } })
await call('POST', 'webhooks', { url: 'https://hooks.example.net/slipway', kinds: ['job.failed'] })
await call('POST', 'me/keys', { name: 'laptop' })
const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl demo'
await call('POST', 'me/ssh-keys', { name: 'demo', public_key: key })
const { items } = await fetch(`${url}/api/v1/machines?state=available&limit=2`, { headers: { cookie } }).then(
  (a) => a.json(),
)
await call('POST', `machines/${items[0].id}/maintenance`, { reason: 'fan 3 is to be replaced on Tuesday' })
