package patch

import (
	"slices"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// named is an element of a list in which patches find their place by name.
type named interface {
	proto.Message
	GetName() string
}

// edit applies a patch to a list of filters, chains or routes. matches says of an element whether the patch means it;
// anywhere, that it names none. last is how many elements at the end must stay there: a router, a terminal filter.
func edit[T named](e *editor, p *one, list []T, anywhere bool, matches func(T) bool, last int) []T {
	value, _ := p.value.(T)
	found := slices.IndexFunc(list, matches)
	at := -1
	switch p.op() {
	case networking.EnvoyFilter_Patch_ADD:
		at = len(list) - min(last, len(list))
	case networking.EnvoyFilter_Patch_INSERT_FIRST:
		at = 0
	case networking.EnvoyFilter_Patch_INSERT_BEFORE:
		if at = found; anywhere {
			at = 0
		}
	case networking.EnvoyFilter_Patch_INSERT_AFTER:
		if at = found + 1; found < 0 {
			at = -1
		}
		if anywhere {
			at = len(list)
		}
	case networking.EnvoyFilter_Patch_REMOVE:
		kept := slices.DeleteFunc(slices.Clone(list), matches)
		e.changed = e.changed || len(kept) != len(list)
		return kept
	case networking.EnvoyFilter_Patch_REPLACE:
		for i, element := range list {
			if matches(element) {
				list[i] = clone(value)
				e.changed = true
			}
		}
	case networking.EnvoyFilter_Patch_MERGE, networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST:
		for _, element := range list {
			if matches(element) {
				e.mergeInto(p, element)
			}
		}
	}
	if at < 0 {
		return list
	}
	e.changed = true
	return slices.Insert(slices.Clone(list), at, clone(value))
}

// mergeInto merges a patch's value into a message.
func (e *editor) mergeInto(p *one, message proto.Message) {
	merge(message.ProtoReflect(), proto.Clone(p.value).ProtoReflect(), p.op() == networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST)
	e.changed = true
}

// adds says whether a patch adds an element to a list.
func (p *one) adds() bool {
	switch p.op() {
	case networking.EnvoyFilter_Patch_ADD, networking.EnvoyFilter_Patch_INSERT_FIRST, networking.EnvoyFilter_Patch_INSERT_BEFORE, networking.EnvoyFilter_Patch_INSERT_AFTER:
		return true
	}
	return false
}

// merges says whether a patch is a merge.
func (p *one) merges() bool {
	return p.op() == networking.EnvoyFilter_Patch_MERGE || p.op() == networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST
}

func clone[T proto.Message](message T) T {
	copied, _ := proto.Clone(message).(T)
	return copied
}
