package patch

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// whole are the messages that are values: one takes the place of the other.
var whole = map[protoreflect.FullName]bool{
	"google.protobuf.Duration": true, "google.protobuf.Timestamp": true, "google.protobuf.BoolValue": true, "google.protobuf.UInt32Value": true,
	"google.protobuf.UInt64Value": true, "google.protobuf.Int32Value": true, "google.protobuf.Int64Value": true, "google.protobuf.DoubleValue": true,
	"google.protobuf.FloatValue": true, "google.protobuf.StringValue": true, "google.protobuf.BytesValue": true,
}

// merge puts what src sets into dst: messages field by field, those in an Any too where both are of one type; maps by key;
// lists by appending, or with replace whole.
func merge(dst, src protoreflect.Message, replace bool) {
	src.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsList():
			mergeList(dst, field, value.List(), replace)
		case field.IsMap():
			into := dst.Mutable(field).Map()
			value.Map().Range(func(key protoreflect.MapKey, element protoreflect.Value) bool {
				into.Set(key, element)
				return true
			})
		case field.Message() != nil && dst.Has(field) && !whole[field.Message().FullName()]:
			mergeMessage(dst, field, value.Message(), replace)
		default:
			dst.Set(field, value)
		}
		return true
	})
}

func mergeList(dst protoreflect.Message, field protoreflect.FieldDescriptor, list protoreflect.List, replace bool) {
	if replace {
		dst.Clear(field)
	}
	into := dst.Mutable(field).List()
	for i := range list.Len() {
		into.Append(list.Get(i))
	}
}

func mergeMessage(dst protoreflect.Message, field protoreflect.FieldDescriptor, src protoreflect.Message, replace bool) {
	if field.Message().FullName() != "google.protobuf.Any" {
		merge(dst.Mutable(field).Message(), src, replace)
		return
	}
	under, okUnder := dst.Get(field).Message().Interface().(*anypb.Any)
	over, okOver := src.Interface().(*anypb.Any)
	if !okUnder || !okOver {
		return
	}
	dst.Set(field, protoreflect.ValueOfMessage(mergeAny(under, over, replace).ProtoReflect()))
}

// mergeAny merges what two Anys hold; where they hold different things the second takes the place.
func mergeAny(under, over *anypb.Any, replace bool) *anypb.Any {
	if under.GetTypeUrl() != over.GetTypeUrl() {
		return over
	}
	a, errA := under.UnmarshalNew()
	b, errB := over.UnmarshalNew()
	if errA != nil || errB != nil {
		return over
	}
	merge(a.ProtoReflect(), b.ProtoReflect(), replace)
	return pack(a)
}

// pack is anypb.New with a fixed order of map entries.
func pack(message proto.Message) *anypb.Any {
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(err) // it is caught at the patch
	}
	return packed
}
