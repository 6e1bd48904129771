package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is how much may be allocated at least between two collections, in bytes. Go collects when a heap has doubled: for a small mesh
// that is some times a second when pods are injected, and who asks then waits.
const heapFloor = 48 << 20

// goPercent is what Go has where GOGC says nothing; mostPercent is the most that is set in its place, as Go's own least heap grows with it.
const goPercent, mostPercent = 100, 600

// collectSeldom keeps to heapFloor: after each collection the share that the heap may grow by is set anew. A heap of more than heapFloor
// is collected as ever. Whoever sets GOGC is left alone.
func collectSeldom() {
	percent := debug.SetGCPercent(goPercent)
	if percent != goPercent {
		debug.SetGCPercent(percent)
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var collected func(*[64]byte)
	next := func() { runtime.SetFinalizer(new([64]byte), collected) } // is called at the next collection
	collected = func(*[64]byte) {
		metrics.Read(live)
		wanted := min(max(goPercent, int(heapFloor*goPercent/max(live[0].Value.Uint64(), 1))), mostPercent)
		if wanted != percent {
			percent = wanted
			debug.SetGCPercent(percent)
		}
		next()
	}
	next()
}
