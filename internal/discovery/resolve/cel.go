package resolve

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
)

// functions are those that Envoy has in CEL, beside the operators.
// https://github.com/google/cel-spec/blob/master/doc/langdef.md#list-of-standard-definitions
var functions = []string{
	"size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "bytes", "bool", "type", "dyn", "duration", "timestamp",
	"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
}

// parseExpression reads a CEL expression, and says why Envoy could not use it: it would refuse the listener that has it.
func parseExpression(text string) (parsed *cel.Ast, why string) {
	environment, err := cel.NewEnv()
	if err != nil {
		return nil, err.Error()
	}
	parsed, issues := environment.Parse(text)
	if issues.Err() != nil {
		return nil, issues.Err().Error()
	}
	return parsed, ""
}

// checkExpression says why Envoy could not use a CEL expression that is a condition. Empty is none, and is right.
func checkExpression(text string) string {
	if text == "" {
		return ""
	}
	parsed, why := parseExpression(text)
	if why != "" {
		return why
	}
	return unknownTo(parsed.NativeRep().Expr())
}

// unknownTo says what Envoy does not have of an expression.
func unknownTo(expression ast.Expr) (why string) {
	ast.PostOrderVisit(expression, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			why = "all, exists, filter and map are off in Envoy"
		case ast.CallKind:
			name := e.AsCall().FunctionName()
			if _, operator := operators.FindReverse(name); !operator && !slices.Contains(functions, name) {
				why = fmt.Sprintf("Envoy has no function %s", name)
			}
		}
	}))
	return why
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// labelFault says why a label cannot be set or taken away.
func labelFault(name string) string {
	if !labelName.MatchString(name) || strings.HasPrefix(name, "__") || name == "le" {
		return "no label can be named so; take letters, digits and underscores"
	}
	return ""
}

// labelExpression is what Envoy is to print for a label, or why it cannot.
func labelExpression(name, text string) (printed, why string) {
	if why := labelFault(name); why != "" {
		return "", why
	}
	parsed, why := parseExpression(text)
	if why != "" {
		return "", why
	}
	unquoted(parsed.NativeRep().Expr())
	if why := unknownTo(parsed.NativeRep().Expr()); why != "" {
		return "", why
	}
	printed, err := cel.AstToString(parsed)
	switch {
	case err != nil:
		return "", err.Error()
	case strings.ContainsAny(printed, "\n\r"):
		return "", "an expression has one line"
	case strings.Contains(printed, ")%"):
		return "", "Envoy reads an expression up to )% and no further"
	}
	return printed, ""
}

// unquoted leaves string() away around all that an expression may be: Envoy does not have it, and prints any value.
func unquoted(e ast.Expr) {
	for e.Kind() == ast.CallKind && e.AsCall().FunctionName() == "string" && len(e.AsCall().Args()) == 1 {
		e.SetKindCase(e.AsCall().Args()[0])
	}
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.Conditional {
		unquoted(e.AsCall().Args()[1])
		unquoted(e.AsCall().Args()[2])
	}
}
