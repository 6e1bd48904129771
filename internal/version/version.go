// Package version says what this build is. It imports nothing of ours.
package version

import "runtime"

// Version is the release, without a leading v. The build sets it by -ldflags -X.
var Version = "0.1.0"

// Hub is where this build's images are unless an IstioOperator says otherwise.
const Hub = "docker.io/slipway"

// String is the version with the platform that it was built for.
func String() string { return Version + " " + runtime.GOOS + "/" + runtime.GOARCH }
