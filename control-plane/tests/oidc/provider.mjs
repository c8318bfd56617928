// A real OpenID provider for the tests: any name with any password logs in. Prints its issuer when it listens.
// Usage: node provider.mjs REDIRECT_URI   (the folder's node_modules holds oidc-provider)
import http from 'node:http';
import Provider from 'oidc-provider';
import { generateKeyPairSync } from 'node:crypto';

const redirect = process.argv[2];
const key = (kind, options, kid, alg) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig',
});
const groups = { ann: ['ops'], bob: ['web', 'readers'], carol: [] };
const client = (id, alg, more) => ({
  client_id: id, client_secret: `secret of ${id}/+%`, redirect_uris: [redirect], id_token_signed_response_alg: alg, ...more,
});

const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      client('rs', 'RS256'),
      client('es', 'ES256', { token_endpoint_auth_method: 'client_secret_post' }),
      client('ed', 'EdDSA'),
      client('hs', 'HS256'),
    ],
    jwks: { keys: [
      key('rsa', { modulusLength: 2048 }, 'rsa', 'RS256'),
      key('ec', { namedCurve: 'P-256' }, 'ec', 'ES256'),
      key('ed25519', {}, 'ed', 'EdDSA'),
    ] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'HS256'] },
    pkce: { required: () => true },
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email'] },
    // `ed` gets everything in its ID token, the others have to ask the user-info endpoint.
    conformIdTokenClaims: process.argv[3] !== 'all-in-token',
    cookies: { keys: ['of the tests only'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, email: `${id}@example.com`, groups: groups[id] ?? [] }),
    }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
