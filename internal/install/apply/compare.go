package apply

// Compare says what makes one set of objects another, without a cluster.
func Compare(from, to []Object) ChangeSet {
	before := map[Ref]Object{}
	for _, object := range from {
		before[RefOf(object)] = object
	}
	var changes ChangeSet
	for _, object := range to {
		change := Change{Ref: RefOf(object), Action: Created}
		if old, ok := before[change.Ref]; ok {
			change.Fields = differences(old.Object, object.Object)
			if change.Action = Configured; len(change.Fields) == 0 {
				change.Action = Unchanged
			}
		}
		delete(before, change.Ref)
		changes = append(changes, change)
	}
	for _, object := range from {
		if _, left := before[RefOf(object)]; left {
			changes = append(changes, Change{Ref: RefOf(object), Action: Pruned})
		}
	}
	return changes
}
