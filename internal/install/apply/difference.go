package apply

import (
	"fmt"
	"reflect"
	"sort"
	"strings"
)

// Field is one field of an object that differs. From and To are JSON values; nil is none.
type Field struct {
	Path string `json:"path"`
	From any    `json:"from,omitempty"`
	To   any    `json:"to,omitempty"`
}

// served are the fields that the API server keeps by itself.
var served = map[string]bool{
	"status": true, "metadata.managedFields": true, "metadata.resourceVersion": true, "metadata.generation": true,
	"metadata.uid": true, "metadata.creationTimestamp": true,
}

// differences lists the fields in which two versions of an object differ, sorted by path, without those that the API
// server keeps by itself.
func differences(from, to map[string]any) []Field {
	var fields []Field
	compare("", from, to, &fields)
	sort.Slice(fields, func(i, j int) bool { return fields[i].Path < fields[j].Path })
	return fields
}

func compare(path string, from, to any, fields *[]Field) {
	if served[path] || reflect.DeepEqual(from, to) {
		return
	}
	f, fromMap := from.(map[string]any)
	t, toMap := to.(map[string]any)
	if fromMap && toMap {
		for name := range keysOf(f, t) {
			compare(joinPath(path, name), f[name], t[name], fields)
		}
		return
	}
	if fl, tl := elements(from), elements(to); fl != nil && tl != nil {
		for name := range keysOf(fl, tl) {
			compare(path+name, fl[name], tl[name], fields)
		}
		return
	}
	*fields = append(*fields, Field{Path: path, From: from, To: to})
}

func keysOf(a, b map[string]any) map[string]bool {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	return names
}

// elements maps the elements of a list by [name:x] where all have a name of their own, otherwise by [0] and so on; nil
// if the value is no list of objects.
func elements(value any) map[string]any {
	list, ok := value.([]any)
	if !ok || len(list) == 0 {
		return nil
	}
	byName, byIndex := map[string]any{}, map[string]any{}
	for i, element := range list {
		m, ok := element.(map[string]any)
		if !ok {
			return nil
		}
		byIndex[fmt.Sprintf("[%d]", i)] = element
		if name, ok := m["name"].(string); ok {
			byName["[name:"+name+"]"] = element
		}
	}
	if len(byName) == len(list) {
		return byName
	}
	return byIndex
}

func joinPath(path, name string) string {
	if strings.ContainsAny(name, "./[") {
		name = "[" + name + "]"
		return path + name
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
