// Package charts holds the Helm charts of the mesh's components.
package charts

import "embed"

// Files has one folder a chart. The prefix all: keeps files whose names begin with an underscore.
//
//go:embed all:base all:istiod all:gateway all:ingress all:egress all:operator
var Files embed.FS
