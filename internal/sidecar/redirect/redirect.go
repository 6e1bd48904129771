package redirect

// Backend is what rules are written with.
type Backend interface {
	// Apply puts a plan in force, whatever was there of ours before.
	Apply(Plan) error
	// Differs says in words how what is in force differs from a plan, order included; empty if it does not.
	Differs(Plan) (string, error)
	// Cleanup takes all of ours away.
	Cleanup() error
}

// Differs is the backend's, and whether packets are led as the plan has it.
func Differs(b Backend, plan Plan) (string, error) {
	text, err := b.Differs(plan)
	if err != nil || text != "" {
		return text, err
	}
	return plan.routeDiffers()
}

// Apply makes what is in force equal the plan, and says what was different. Where nothing is, nothing is touched.
func Apply(b Backend, plan Plan) (differed string, err error) {
	differed, err = Differs(b, plan)
	if err != nil || differed == "" {
		return "", err
	}
	if err := plan.route(); err != nil { // before the packets come
		return differed, err
	}
	return differed, b.Apply(plan)
}

// Cleanup takes all of ours away, with what leads packets of the plan's mark.
func Cleanup(b Backend, plan Plan) error {
	if err := b.Cleanup(); err != nil {
		return err
	}
	return plan.unroute()
}
