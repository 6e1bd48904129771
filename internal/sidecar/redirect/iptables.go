package redirect

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Iptables is rules by iptables-restore, where nftables is not to be had. Each table is replaced in one transaction. The rules stand in
// chains that are ours alone, to which the first rule of PREROUTING and of OUTPUT leads.
type Iptables struct {
	Variant string // legacy or nft; empty is what iptables is here
}

var (
	iptablesTables = []string{"raw", "mangle", "nat"}
	iptablesHooks  = map[Hook]string{Prerouting: "PREROUTING", Output: "OUTPUT"}
)

// ours is our chain of a hook.
func ours(hook Hook) string { return "ISTIO_" + iptablesHooks[hook] }

// commandTime is how long one command may take: it waits for the lock that others may have.
const commandTime = 30 * time.Second

// family is IPv4 or IPv6.
type family struct {
	name string // of the program
	is4  bool
}

// families are those that this network namespace has.
func families() []family {
	out := []family{{"iptables", true}}
	if text, err := os.ReadFile("/proc/thread-self/net/if_inet6"); err == nil && len(text) > 0 {
		out = append(out, family{"ip6tables", false})
	}
	return out
}

// Apply puts the plan in force in the network namespace of this process.
func (t Iptables) Apply(plan Plan) error {
	for _, f := range families() {
		for _, table := range iptablesTables {
			there, err := t.read(f, table)
			if err != nil {
				return err
			}
			if script := there.become(f.lines(plan, table)); script != "" {
				if err := t.restore(f, table, script); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Differs says in words how the rules that are in force differ from the plan; empty if they do not.
func (t Iptables) Differs(plan Plan) (string, error) {
	for _, f := range families() {
		for _, table := range iptablesTables {
			there, err := t.read(f, table)
			if err != nil {
				return "", err
			}
			if text := there.differs(f.lines(plan, table)); text != "" {
				return fmt.Sprintf("%s, table %s: %s", f.name, table, text), nil
			}
		}
	}
	return "", nil
}

// Cleanup takes the rules away; where there are none it does nothing.
func (t Iptables) Cleanup() error { return t.Apply(Plan{}) }

// lines are the rules of our chains, as iptables-save writes them.
func (f family) lines(plan Plan, table string) map[Hook][]string {
	out := map[Hook][]string{}
	for _, c := range plan.Chains {
		if c.Table != table {
			continue
		}
		for _, rule := range c.Rules {
			if !f.concerns(rule) {
				continue
			}
			match := f.match(rule)
			for _, target := range f.targets(plan, rule) {
				out[c.Hook] = append(out[c.Hook], "-A "+ours(c.Hook)+match+" -j "+target)
			}
		}
	}
	return out
}

// concerns says whether a rule can match packets of the family.
func (f family) concerns(r Rule) bool {
	for _, p := range []netip.Prefix{r.Source, r.Destination, r.NotDestination} {
		if p.IsValid() && p.Addr().Is4() != f.is4 {
			return false
		}
	}
	return true
}

func (f family) match(r Rule) string {
	var out strings.Builder
	add := func(text string, args ...any) { fmt.Fprintf(&out, " "+text, args...) }
	protocol := "tcp"
	if r.UDP {
		protocol = "udp"
	}
	if r.Source.IsValid() {
		add("-s %s", r.Source)
	}
	if r.Destination.IsValid() {
		add("-d %s", r.Destination)
	}
	if r.NotDestination.IsValid() {
		add("! -d %s", r.NotDestination)
	}
	if r.In != "" {
		add("-i %s", r.In)
	}
	if r.Out != "" {
		add("-o %s", r.Out)
	}
	if !r.Invalid {
		add("-p %s", protocol)
	}
	if r.Port != 0 {
		add("-m %s --dport %d", protocol, r.Port)
	}
	if len(r.NotPorts) > 0 {
		add("-m multiport ! --dports %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(r.NotPorts), " ", ","), "[]"))
	}
	if r.SourcePort != 0 {
		add("-m %s --sport %d", protocol, r.SourcePort)
	}
	if r.UID != nil {
		add("-m owner --uid-owner %d", *r.UID)
	}
	if r.GID != nil {
		add("-m owner --gid-owner %d", *r.GID)
	}
	for _, uid := range r.NotUIDs {
		add("-m owner ! --uid-owner %d", uid)
	}
	for _, gid := range r.NotGIDs {
		add("-m owner ! --gid-owner %d", gid)
	}
	if r.Mark != 0 {
		add("-m mark --mark %#x", r.Mark)
	}
	if r.NotMark != 0 {
		add("-m mark ! --mark %#x", r.NotMark)
	}
	if r.ConnectionMark != 0 {
		add("-m connmark --mark %#x", r.ConnectionMark)
	}
	if r.Established {
		add("-m conntrack --ctstate RELATED,ESTABLISHED")
	}
	if r.Invalid {
		add("-m conntrack --ctstate INVALID")
	}
	return out.String()
}

// targets are what becomes of the packet; two where it takes two rules.
func (f family) targets(plan Plan, r Rule) []string {
	mark := func(value uint32) string { return fmt.Sprintf("MARK --set-xmark %#x/0xffffffff", value) }
	any4 := "0.0.0.0"
	if !f.is4 {
		any4 = "::"
	}
	switch r.Verdict {
	case Redirect:
		return []string{fmt.Sprintf("REDIRECT --to-ports %d", r.Value)}
	case Transparent:
		return []string{fmt.Sprintf("TPROXY --on-port %d --on-ip %s --tproxy-mark %#x/0xffffffff", r.Value, any4, plan.Mark)}
	case Divert:
		return []string{mark(plan.Mark), "ACCEPT"}
	case Drop:
		return []string{"DROP"}
	case Zone:
		return []string{fmt.Sprintf("CT --zone %d", r.Value)}
	case SetMark:
		return []string{mark(r.Value)}
	case SaveMark:
		return []string{"CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"}
	case RestoreMark:
		return []string{"CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"}
	}
	return []string{"RETURN"}
}

// saved is a table as it is.
type saved struct {
	chains map[string]bool     // that are there
	rules  map[string][]string // of each chain
}

func (t Iptables) read(f family, table string) (saved, error) {
	out := saved{map[string]bool{}, map[string][]string{}}
	text, err := t.run(f, "save", "", "-t", table)
	if err != nil {
		return out, err
	}
	for _, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, ":"):
			out.chains[words[0][1:]] = true
		case strings.HasPrefix(line, "-A "):
			out.rules[words[1]] = append(out.rules[words[1]], strings.TrimSpace(line))
		}
	}
	return out, nil
}

func jump(hook Hook) string { return "-A " + iptablesHooks[hook] + " -j " + ours(hook) }

// differs compares our chains, and whether they come first.
func (s saved) differs(want map[Hook][]string) string {
	for _, hook := range []Hook{Prerouting, Output} {
		lines, standard := want[hook], s.rules[iptablesHooks[hook]]
		switch {
		case len(lines) == 0 && !s.chains[ours(hook)] && !slices.Contains(standard, jump(hook)):
			continue
		case len(lines) == 0:
			return "chain " + ours(hook) + " is there"
		case len(standard) == 0 || standard[0] != jump(hook) || slices.Contains(standard[1:], jump(hook)):
			return "chain " + ours(hook) + " is not asked first"
		case !slices.Equal(s.rules[ours(hook)], lines):
			return fmt.Sprintf("the rules of chain %s are others", ours(hook))
		}
	}
	return ""
}

// become is the script that makes our chains what they are to be; empty if they are.
func (s saved) become(want map[Hook][]string) string {
	if s.differs(want) == "" {
		return ""
	}
	var declared, rules, removed strings.Builder
	for _, hook := range []Hook{Prerouting, Output} {
		lines := want[hook]
		if len(lines) > 0 || s.chains[ours(hook)] {
			fmt.Fprintf(&declared, ":%s - [0:0]\n", ours(hook)) // which empties it, too
		}
		for _, line := range s.rules[iptablesHooks[hook]] {
			if line == jump(hook) {
				fmt.Fprintln(&rules, "-D"+strings.TrimPrefix(line, "-A"))
			}
		}
		switch {
		case len(lines) > 0:
			fmt.Fprintln(&rules, strings.Join(lines, "\n"))
			fmt.Fprintf(&rules, "-I %s 1 -j %s\n", iptablesHooks[hook], ours(hook))
		case s.chains[ours(hook)]:
			fmt.Fprintf(&removed, "-X %s\n", ours(hook))
		}
	}
	return declared.String() + rules.String() + removed.String()
}

func (t Iptables) restore(f family, table, script string) error {
	_, err := t.run(f, "restore", "*"+table+"\n"+script+"COMMIT\n", "--noflush", "--wait", "10")
	return err
}

// run calls iptables-save or iptables-restore.
func (t Iptables) run(f family, verb, input string, args ...string) (string, error) {
	name := f.name + "-" + verb
	if t.Variant != "" {
		name = f.name + "-" + t.Variant + "-" + verb
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, mistakes bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &mistakes
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, strings.TrimSpace(mistakes.String()), input)
	}
	return out.String(), nil
}
