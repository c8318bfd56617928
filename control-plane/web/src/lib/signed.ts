// A machine's order as it goes to its edge: read as a document, copied as the text that is signed.

interface Held {
  signed?: { topic: string; payload: string } | null
}

export function signedOf(order: unknown): { value: unknown; exact?: string } {
  const { signed } = order as Held
  if (!signed) return { value: order }
  return { value: { topic: signed.topic, ...JSON.parse(signed.payload) }, exact: signed.payload }
}
