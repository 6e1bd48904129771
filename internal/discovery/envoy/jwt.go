package envoy

import (
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	jwt "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/emptypb"
	security "istio.io/api/security/v1beta1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const jwtName = "envoy.filters.http.jwt_authn"

// payloadKey is where a valid token's claims are in the request's metadata.
const payloadKey = "payload"

// jwtFilter checks tokens: one that comes must be valid by one of the rules, and none need come. To ask for one is for
// AuthorizationPolicy.
func jwtFilter(guard *mesh.Guard) *hcm.HttpFilter {
	out := &jwt.JwtAuthentication{Providers: map[string]*jwt.JwtProvider{}}
	var any []*jwt.JwtRequirement
	for _, policy := range guard.Authentication {
		for _, rule := range policy.Rules {
			name := "origins-" + itoa(uint32(len(any)))
			out.Providers[name] = jwtProvider(rule, guard)
			any = append(any, &jwt.JwtRequirement{RequiresType: &jwt.JwtRequirement_ProviderName{ProviderName: name}})
		}
	}
	if len(any) == 0 {
		return nil
	}
	any = append(any, &jwt.JwtRequirement{RequiresType: &jwt.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}})
	out.Rules = []*jwt.RequirementRule{{Match: routeMatch(nil), RequirementType: &jwt.RequirementRule_Requires{
		Requires: &jwt.JwtRequirement{RequiresType: &jwt.JwtRequirement_RequiresAny{RequiresAny: &jwt.JwtRequirementOrList{Requirements: any}}}}}}
	out.BypassCorsPreflight = true
	return httpFilter(jwtName, out)
}

func jwtProvider(rule *security.JWTRule, guard *mesh.Guard) *jwt.JwtProvider {
	out := &jwt.JwtProvider{
		Issuer: rule.Issuer, Audiences: rule.Audiences, Forward: rule.ForwardOriginalToken, ForwardPayloadHeader: rule.OutputPayloadToHeader, PayloadInMetadata: payloadKey, FromParams: rule.FromParams,
		FromCookies: rule.FromCookies, ClearRouteCache: true, JwksSourceSpecifier: &jwt.JwtProvider_LocalJwks{LocalJwks: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: keysOf(rule, guard)}}},
		NormalizePayloadInMetadata: &jwt.JwtProvider_NormalizePayload{SpaceDelimitedClaims: append([]string{"scope", "permission"}, rule.SpaceDelimitedClaims...)},
	}
	for _, h := range rule.FromHeaders {
		out.FromHeaders = append(out.FromHeaders, &jwt.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
	}
	for _, c := range rule.OutputClaimToHeaders {
		out.ClaimToHeaders = append(out.ClaimToHeaders, &jwt.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
	}
	return out
}

// keysOf are the keys of a rule's issuer. Where they are not known there is one that nobody has: every token is refused then.
func keysOf(rule *security.JWTRule, guard *mesh.Guard) string {
	keys := rule.Jwks
	if keys == "" {
		keys = guard.Keys[mesh.KeySource(rule)]
	}
	if keys == "" || !json.Valid([]byte(keys)) {
		return nobodysKey()
	}
	return keys
}

// nobodysKey is a key set with a point of the curve that a hash leads to, so that nobody knows its private key.
var nobodysKey = sync.OnceValue(func() string {
	curve := elliptic.P256().Params()
	for i := byte(0); ; i++ {
		sum := sha256.Sum256([]byte{'s', 'l', 'i', 'p', 'w', 'a', 'y', i})
		x := new(big.Int).SetBytes(sum[:])
		// y² = x³ - 3x + b
		y := new(big.Int).Exp(x, big.NewInt(3), curve.P)
		y.Sub(y, new(big.Int).Mul(big.NewInt(3), x)).Add(y, curve.B).Mod(y, curve.P)
		if x.Cmp(curve.P) < 0 && y.ModSqrt(y, curve.P) != nil {
			text := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
			return `{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"nobody","x":"` + text(x) + `","y":"` + text(y) + `"}]}`
		}
	}
})

// claimPath is where a claim of the token is.
func claimPath(path []string) *matcher.MetadataMatcher {
	out := &matcher.MetadataMatcher{Filter: jwtName}
	for _, part := range append([]string{payloadKey}, path...) {
		out.Path = append(out.Path, &matcher.MetadataMatcher_PathSegment{Segment: &matcher.MetadataMatcher_PathSegment_Key{Key: part}})
	}
	return out
}

// tokenClaim matches a claim that is a text, or a list that has it.
func tokenClaim(path []string, value string) *rbac.Principal {
	in := claimPath(path)
	in.Value = oneValue(value)
	return &rbac.Principal{Identifier: &rbac.Principal_Metadata{Metadata: in}}
}

func textValue(m *matcher.StringMatcher) *matcher.ValueMatcher {
	return &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_StringMatch{StringMatch: m}}
}

// oneValue matches a text, or a list that has it.
func oneValue(value string) *matcher.ValueMatcher {
	text := textValue(pattern(value, false))
	list := &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_ListMatch{ListMatch: &matcher.ListMatcher{MatchPattern: &matcher.ListMatcher_OneOf{OneOf: text}}}}
	return &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_OrMatch{OrMatch: &matcher.OrMatcher{ValueMatchers: []*matcher.ValueMatcher{text, list}}}}
}

// requestPrincipal matches a token's ISSUER/SUBJECT. Either may have slashes, so each is tried as the one between them.
func requestPrincipal(value string) *rbac.Principal {
	part := func(name string, m *matcher.StringMatcher) *rbac.Principal {
		in := claimPath([]string{name})
		in.Value = textValue(m)
		return &rbac.Principal{Identifier: &rbac.Principal_Metadata{Metadata: in}}
	}
	if value == "*" {
		return allOf([]*rbac.Principal{part("iss", pattern("*", false)), part("sub", pattern("*", false))})
	}
	text, suffix := strings.CutPrefix(value, "*")
	text, prefix := strings.CutSuffix(text, "*")
	var ids []*rbac.Principal
	for i, c := range text {
		if c != '/' {
			continue
		}
		issuer, subject := text[:i], text[i+1:]
		if suffix {
			issuer = "*" + issuer
		}
		if prefix {
			subject += "*"
		}
		ids = append(ids, allOf([]*rbac.Principal{part("iss", pattern(issuer, false)), part("sub", pattern(subject, false))}))
	}
	switch {
	case suffix && !prefix:
		ids = append(ids, part("sub", pattern("*"+text, false)))
	case prefix && !suffix:
		ids = append(ids, part("iss", pattern(text+"*", false)))
	}
	if len(ids) == 0 { // without a slash it is nobody's
		return &rbac.Principal{Identifier: &rbac.Principal_NotId{NotId: allOf(nil)}}
	}
	return anyOf(ids)
}
