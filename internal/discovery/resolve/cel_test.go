package resolve

import (
	"strings"
	"testing"
)

func TestLabelExpression(t *testing.T) {
	for _, c := range []struct{ name, text, printed, why string }{
		{"host", "request.host", "request.host", ""},
		{"port", "string(destination.port)", "destination.port", ""},
		{"port", "has(request.host) ?\n string(string(destination.port)) : ''", `has(request.host) ? destination.port : ""`, ""},
		{"who", "'x-who' in request.headers ? request.headers['x-who'] : 'nobody'", `("x-who" in request.headers) ? (request.headers["x-who"]) : "nobody"`, ""},
		{"both", "request.host + string(destination.port)", "", "Envoy has no function string"},
		{"low", "request.host.lowerAscii()", "", "Envoy has no function lowerAscii"},
		{"any", "[1, 2].exists(x, x > 1)", "", "off in Envoy"},
		{"open", "request.host +", "", "Syntax error"},
		{"part", "int('3')%2", "int(\"3\") % 2", ""},
		{"text", "')%'", "", "up to )%"},
		{"le", "request.host", "", "no label can be named so"},
		{"a-b", "request.host", "", "no label can be named so"},
	} {
		printed, why := labelExpression(c.name, c.text)
		if printed != c.printed || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: %s becomes %q (%q), not %q (%q)", c.name, c.text, printed, why, c.printed, c.why)
		}
	}
}
