package manifest

import "sort"

// Leaf is one effective value, and the layer that set it.
type Leaf struct {
	Path  string `json:"path"`
	Value any    `json:"value"`
	SetBy string `json:"setBy"`
}

// Leaves lists the effective values, sorted by path.
func (m Merged) Leaves() []Leaf {
	leaves := make([]Leaf, 0, len(m.Origin))
	walkLeaves("", m.Spec, func(path string, value any) {
		leaves = append(leaves, Leaf{Path: path, Value: value, SetBy: m.Origin[path]})
	})
	sort.Slice(leaves, func(i, j int) bool { return leaves[i].Path < leaves[j].Path })
	return leaves
}
