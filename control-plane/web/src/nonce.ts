// Styles that components add at run time carry the page's nonce: the content security policy lets no other in.
// This must run before anything else that makes elements.

const nonce = document.querySelector<HTMLMetaElement>('meta[name=csp-nonce]')?.content ?? ''
const create = document.createElement.bind(document)

document.createElement = ((name: string, options?: ElementCreationOptions) => {
  const element = create(name, options)
  if (name.toLowerCase() === 'style') element.nonce = nonce
  return element
}) as typeof document.createElement
