package manifest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// findElement returns the index that a bracketed step means: [N] (an index; -1 or past the end appends), [key:value]
// (the object whose key has the value) or [value] and [:value] (the scalar that matches as a regular expression).
func findElement(list []any, step string) (int, error) {
	selector := step[1 : len(step)-1]
	if n, err := strconv.Atoi(selector); err == nil {
		if n < 0 || n > len(list) {
			return len(list), nil
		}
		return n, nil
	}
	key, value, isPair := cutUnescaped(selector)
	if isPair && key != "" {
		for i, element := range list {
			m, ok := element.(map[string]any)
			if ok && fmt.Sprint(m[key]) == value {
				return i, nil
			}
		}
		return 0, fmt.Errorf("element %s not found", step)
	}
	if !isPair {
		value = key
	}
	pattern, err := regexp.Compile("^(?:" + value + ")$")
	if err != nil {
		return 0, fmt.Errorf("element %s: %w", step, err)
	}
	for i, element := range list {
		if pattern.MatchString(fmt.Sprint(element)) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("element %s not found", step)
}

// cutUnescaped cuts at the first colon that has no backslash before it, and takes the backslashes away.
func cutUnescaped(s string) (before, after string, found bool) {
	plain := func(s string) string { return strings.ReplaceAll(s, `\:`, ":") }
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ':':
			return plain(s[:i]), plain(s[i+1:]), true
		}
	}
	return plain(s), "", false
}
