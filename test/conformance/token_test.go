package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// issuer signs tokens, and tells of its keys as an OpenID provider does.
type issuer struct {
	key *ecdsa.PrivateKey
	url string // of its server, which is its name as well
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	i.url = server.URL
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, i.keys()) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(time.Second)
		_, _ = fmt.Fprint(w, i.keys())
	})
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.url, i.url+"/keys")
	})
	return i
}

// keys is the issuer's key set.
func (i *issuer) keys() string {
	point, _ := i.key.PublicKey.Bytes() // 4, x, y
	part := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"one","x":%q,"y":%q}]}`, part(point[1:33]), part(point[33:]))
}

// token makes one with claims over the usual ones.
func (i *issuer) token(claims map[string]any) string {
	body := map[string]any{"iss": i.url, "sub": "jason", "aud": "reviews", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for name, value := range claims {
		body[name] = value
	}
	head := encode(map[string]any{"alg": "ES256", "kid": "one", "typ": "JWT"}) + "." + encode(body)
	sum := sha256.Sum256([]byte(head))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		panic(err)
	}
	fill := func(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
	return head + "." + base64.RawURLEncoding.EncodeToString(append(fill(r), fill(s)...))
}

// unsigned is a token that says it needs no signature.
func (i *issuer) unsigned() string {
	return encode(map[string]any{"alg": "none"}) + "." + encode(map[string]any{"iss": i.url, "sub": "jason", "aud": "reviews", "exp": time.Now().Add(time.Hour).Unix()}) + "."
}

func encode(v any) string {
	text, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(text)
}

func requestAuthentication(spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: case}\nspec: " + spec + "\n"
}

// needsToken lets only requests with a valid token through to v1 and v2.
const needsToken = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: token}\nspec: {selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]}\n"

// asked checks the status of a request of the client's to reviews.
func asked(want int, path string, headers ...string) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", path, headers...)
		return orErr(err, expect(response != nil && response.StatusCode == want, "%s %v is answered %v, not %d", path, headers, response, want))
	}
}

func tokens(t *testing.T) []feature {
	a, stranger := newIssuer(t), newIssuer(t)
	jwks := "jwks: '" + a.keys() + "'"
	rule := func(more string) string {
		return requestAuthentication("{selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: \"" + a.url + "\", " + more + "}]}")
	}
	bearer := func(token string) []string { return []string{"authorization", "Bearer " + token} }
	good := a.token(nil)
	seen := func(header, want string) func(*mesh) error {
		return func(m *mesh) error {
			_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/", bearer(good)...)
			return orErr(err, expect(strings.HasPrefix(got.Headers.Get(header), want) && got.Headers.Get(header) != "", "the application saw %v", got.Headers))
		}
	}
	open := rule(jwks)
	const prefix = "RequestAuthentication.jwtRules."
	one := func(name, proves, with, without string, check func(*mesh) error) feature {
		return feature{name: "RequestAuthentication " + name, proves: proves, with: with, without: without, check: check}
	}
	refusedAll := both(asked(200, "/"), asked(200, "/", bearer(good)...), asked(401, "/", bearer(a.unsigned())...), asked(401, "/", bearer(stranger.token(map[string]any{"iss": a.url}))...),
		asked(401, "/", bearer(stranger.token(nil))...), asked(401, "/", bearer(a.token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}))...), asked(401, "/", bearer("nonsense")...))
	return []feature{
		one("jwks", prefix+"jwks "+prefix+"issuer", open, requestAuthentication("{selector: {matchLabels: {app: nobody}}, jwtRules: [{issuer: \""+a.url+"\", "+jwks+"}]}"), refusedAll),
		one("selector", "RequestAuthentication.selector.matchLabels", open, requestAuthentication("{selector: {matchLabels: {app: nobody}}, jwtRules: [{issuer: \""+a.url+"\", "+jwks+"}]}"), asked(401, "/", bearer("nonsense")...)),
		one("jwksUri", prefix+"jwksUri", rule("jwksUri: \""+a.url+"/keys\"")+needsToken, rule("jwksUri: \""+stranger.url+"/keys\"")+needsToken, asked(200, "/", bearer(good)...)),
		one("keys by the issuer's own document", prefix+"issuer", requestAuthentication("{jwtRules: [{issuer: \""+a.url+"\"}]}")+needsToken, requestAuthentication("{jwtRules: [{issuer: \""+stranger.url+"\"}]}")+needsToken, asked(200, "/", bearer(good)...)),
		one("keys that cannot be read", prefix+"jwksUri", rule("jwksUri: \"http://127.0.0.1:1/keys\""), open, both(asked(200, "/"), asked(401, "/", bearer(good)...))),
		one("timeout", prefix+"timeout", rule("timeout: 0.3s, jwksUri: \""+a.url+"/slow\""), rule("timeout: 10s, jwksUri: \""+a.url+"/slow\""), both(asked(200, "/"), asked(401, "/", bearer(good)...))),
		one("audiences", prefix+"audiences", rule(jwks+", audiences: [reviews]"), rule(jwks+", audiences: [others]"), asked(200, "/", bearer(good)...)),
		one("fromHeaders", prefix+"fromHeaders.name "+prefix+"fromHeaders.prefix", rule(jwks+", fromHeaders: [{name: x-token, prefix: \"T \"}]")+needsToken, open+needsToken, asked(200, "/", "x-token", "T "+good)),
		one("fromParams", prefix+"fromParams", rule(jwks+", fromParams: [token]")+needsToken, open+needsToken, asked(200, "/?token="+good)),
		one("fromCookies", prefix+"fromCookies", rule(jwks+", fromCookies: [token]")+needsToken, open+needsToken, asked(200, "/", "cookie", "token="+good)),
		one("outputPayloadToHeader", prefix+"outputPayloadToHeader", rule(jwks+", outputPayloadToHeader: x-payload"), open, seen("x-payload", "ey")),
		one("outputClaimToHeaders", prefix+"outputClaimToHeaders.header "+prefix+"outputClaimToHeaders.claim", rule(jwks+", outputClaimToHeaders: [{header: x-sub, claim: sub}]"), open, seen("x-sub", "jason")),
		one("forwardOriginalToken", prefix+"forwardOriginalToken", rule(jwks+", forwardOriginalToken: true"), open, seen("authorization", "Bearer ")),
		one("spaceDelimitedClaims", prefix+"spaceDelimitedClaims", rule(jwks+", spaceDelimitedClaims: [roles]")+authorization("{rules: [{when: [{key: \"request.auth.claims[roles]\", values: [admin]}]}]}"),
			open+authorization("{rules: [{when: [{key: \"request.auth.claims[roles]\", values: [admin]}]}]}"), asked(200, "/", bearer(a.token(map[string]any{"roles": "user admin"}))...)),
	}
}

// tokenConditions are about what AuthorizationPolicy says of tokens.
func tokenConditions(t *testing.T) []feature {
	a := newIssuer(t)
	accepted := requestAuthentication("{selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: \"" + a.url + "\", jwks: '" + a.keys() + "'}]}")
	token := a.token(map[string]any{"azp": "app", "groups": []string{"a", "b"}, "deep": map[string]any{"x": "inner"}})
	checked := asked(403, "/", "authorization", "Bearer "+token)
	var out []feature
	add := func(name, proves, with, without string) {
		out = append(out, feature{name: "AuthorizationPolicy " + name, proves: proves, with: accepted + authorization("{action: DENY, rules: ["+with+"]}"), without: accepted + authorization("{action: DENY, rules: ["+without+"]}"), check: checked})
	}
	source := func(field, value string) string { return "{from: [{source: {" + field + ": [" + value + "]}}]}" }
	const fields = "AuthorizationPolicy.rules.from.source."
	for _, value := range []string{a.url + "/jason", a.url + "/*", "*/jason", "*", "http://127*"} {
		add("requestPrincipals "+strings.ReplaceAll(value, a.url, "ISSUER"), fields+"requestPrincipals", source("requestPrincipals", "\""+value+"\""), source("requestPrincipals", "\""+a.url+"/nobody\""))
	}
	add("notRequestPrincipals", fields+"notRequestPrincipals", source("notRequestPrincipals", "\""+a.url+"/nobody\""), source("notRequestPrincipals", "\""+a.url+"/jason\""))
	when := func(key, value string) string { return "{when: [{key: \"" + key + "\", values: [" + value + "]}]}" }
	for _, c := range []struct{ key, with, without string }{
		{"request.auth.principal", "\"" + a.url + "/jason\"", "\"" + a.url + "/x\""}, {"request.auth.audiences", "reviews", "x"}, {"request.auth.presenter", "app", "x"},
		{"request.auth.claims[groups]", "b", "c"}, {"request.auth.claims[deep][x]", "inner", "outer"},
	} {
		add("when "+c.key, "AuthorizationPolicy.rules.when.key AuthorizationPolicy.rules.when.values", when(c.key, c.with), when(c.key, c.without))
	}
	return out
}
