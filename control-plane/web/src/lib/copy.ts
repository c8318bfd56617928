// A text for the clipboard, and whether it is there.
import { ref, type Ref } from 'vue'

export function useCopy(text: () => string): { copied: Ref<boolean>; copy: () => Promise<void> } {
  const copied = ref(false)
  async function copy(): Promise<void> {
    await navigator.clipboard.writeText(text())
    copied.value = true
  }
  return { copied, copy }
}
