package redirect

import (
	"fmt"
	"net/netip"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Nftables is rules by netlink, in one table that is ours alone: it is replaced whole, in one transaction, so that nothing goes by
// uncaptured and nothing is dropped in between.
type Nftables struct{}

const tableName = "istio-redirect"

var (
	hooks      = map[Hook]*nftables.ChainHook{Prerouting: nftables.ChainHookPrerouting, Output: nftables.ChainHookOutput}
	hookNames  = map[Hook]string{Prerouting: "prerouting", Output: "output"}
	priorities = map[string]*nftables.ChainPriority{"raw": nftables.ChainPriorityRaw, "mangle": nftables.ChainPriorityMangle, "nat": nftables.ChainPriorityNATDest}
)

// nftChain is how a chain is declared.
func nftChain(table *nftables.Table, c Chain) *nftables.Chain {
	kind := nftables.ChainTypeFilter
	switch {
	case c.Table == "nat":
		kind = nftables.ChainTypeNAT
	case c.Table == "mangle" && c.Hook == Output:
		kind = nftables.ChainTypeRoute // a packet whose mark changes is led anew
	}
	return &nftables.Chain{Table: table, Name: c.Table + "-" + hookNames[c.Hook], Type: kind, Hooknum: hooks[c.Hook], Priority: priorities[c.Table]}
}

// Apply puts the plan in force in the network namespace of this process.
func (Nftables) Apply(plan Plan) error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	table := connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	connection.DelTable(table) // added first, since deleting what is not there is an error
	table = connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	for _, c := range plan.Chains {
		chain := connection.AddChain(nftChain(table, c))
		for _, rule := range c.Rules {
			connection.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: expressions(plan, rule)})
		}
	}
	if err := connection.Flush(); err != nil {
		return fmt.Errorf("apply the rules: %w", err)
	}
	return nil
}

// Differs says in words how the rules that are in force differ from the plan; empty if they do not.
func (Nftables) Differs(plan Plan) (string, error) {
	connection, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open netlink: %w", err)
	}
	chains, err := connection.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", fmt.Errorf("read the chains: %w", err)
	}
	there := map[string]*nftables.Chain{}
	for _, chain := range chains {
		if chain.Table.Name == tableName {
			there[chain.Name] = chain
		}
	}
	if len(there) == 0 {
		return "there are no rules", nil
	}
	for _, c := range plan.Chains {
		want := nftChain(nil, c)
		chain := there[want.Name]
		if chain == nil || chain.Type != want.Type || chain.Hooknum == nil || *chain.Hooknum != *want.Hooknum {
			return "chain " + want.Name + " is missing", nil
		}
		delete(there, want.Name)
		rules, err := connection.GetRules(chain.Table, chain)
		if err != nil {
			return "", fmt.Errorf("read the rules of %s: %w", want.Name, err)
		}
		if len(rules) != len(c.Rules) {
			return fmt.Sprintf("chain %s has %d rules, not %d", want.Name, len(rules), len(c.Rules)), nil
		}
		for i, rule := range rules {
			if !reflect.DeepEqual(comparable(rule.Exprs), comparable(expressions(plan, c.Rules[i]))) {
				return fmt.Sprintf("rule %d of chain %s is another", i+1, want.Name), nil
			}
		}
	}
	for name := range there {
		return "chain " + name + " is not ours", nil
	}
	return "", nil
}

// comparable leaves out what is counted, and what the library does not read back.
func comparable(exprs []expr.Any) []expr.Any {
	out := make([]expr.Any, 0, len(exprs))
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.TProxy:
		case *expr.Redir:
			out = append(out, &expr.Redir{RegisterProtoMin: e.RegisterProtoMin})
		case *expr.Ct:
			if e.SourceRegister {
				e = &expr.Ct{Key: e.Key}
			}
			out = append(out, e)
		default:
			out = append(out, e)
		}
	}
	return out
}

// Cleanup takes the rules away; where there are none it does nothing.
func (Nftables) Cleanup() error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	connection.DelTable(connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}))
	return connection.Flush()
}

// expressions translates a rule: the protocol first, then each condition, then the verdict.
func expressions(plan Plan, r Rule) []expr.Any {
	var out []expr.Any
	if !r.Invalid {
		protocol := byte(unix.IPPROTO_TCP)
		if r.UDP {
			protocol = unix.IPPROTO_UDP
		}
		out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{protocol}))
	}
	out = append(out, interfaceMatch(r)...)
	out = append(out, ownerMatch(r)...)
	out = append(out, addressMatch(r.Source, true, expr.CmpOpEq)...)
	out = append(out, addressMatch(r.Destination, false, expr.CmpOpEq)...)
	out = append(out, addressMatch(r.NotDestination, false, expr.CmpOpNeq)...)
	if r.Port != 0 {
		out = append(out, portMatch(destinationPort, expr.CmpOpEq, r.Port)...)
	}
	for _, port := range r.NotPorts {
		out = append(out, portMatch(destinationPort, expr.CmpOpNeq, port)...)
	}
	if r.SourcePort != 0 {
		out = append(out, portMatch(sourcePort, expr.CmpOpEq, r.SourcePort)...)
	}
	out = append(out, markMatch(r)...)
	out = append(out, stateMatch(r)...)
	out = append(out, &expr.Counter{})
	return append(out, verdict(plan, r)...)
}

func interfaceMatch(r Rule) []expr.Any {
	var out []expr.Any
	for _, one := range []struct {
		key  expr.MetaKey
		name string
	}{{expr.MetaKeyIIFNAME, r.In}, {expr.MetaKeyOIFNAME, r.Out}} {
		if one.name != "" {
			out = append(out, &expr.Meta{Key: one.key, Register: 1}, compare(expr.CmpOpEq, append([]byte(one.name), 0)))
		}
	}
	return out
}

func ownerMatch(r Rule) []expr.Any {
	var out []expr.Any
	match := func(key expr.MetaKey, op expr.CmpOp, id uint32) {
		out = append(out, &expr.Meta{Key: key, Register: 1}, compare(op, binaryutil.NativeEndian.PutUint32(id)))
	}
	if r.UID != nil {
		match(expr.MetaKeySKUID, expr.CmpOpEq, *r.UID)
	}
	if r.GID != nil {
		match(expr.MetaKeySKGID, expr.CmpOpEq, *r.GID)
	}
	for _, uid := range r.NotUIDs {
		match(expr.MetaKeySKUID, expr.CmpOpNeq, uid)
	}
	for _, gid := range r.NotGIDs {
		match(expr.MetaKeySKGID, expr.CmpOpNeq, gid)
	}
	return out
}

func markMatch(r Rule) []expr.Any {
	var out []expr.Any
	for _, one := range []struct {
		value uint32
		load  expr.Any
		op    expr.CmpOp
	}{{r.Mark, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, expr.CmpOpEq}, {r.NotMark, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, expr.CmpOpNeq}, {r.ConnectionMark, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, expr.CmpOpEq}} {
		if one.value != 0 {
			out = append(out, one.load, compare(one.op, binaryutil.NativeEndian.PutUint32(one.value)))
		}
	}
	return out
}

func stateMatch(r Rule) []expr.Any {
	bits := uint32(0)
	if r.Established {
		bits = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	}
	if r.Invalid {
		bits = expr.CtStateBitINVALID
	}
	if bits == 0 {
		return nil
	}
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

// verdict does what the rule says with the packet.
func verdict(plan Plan, r Rule) []expr.Any {
	port := &expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(r.Value))} //nolint:gosec // ports
	mark := setMark(plan.Mark)
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	switch r.Verdict {
	case Redirect:
		return []expr.Any{port, &expr.Redir{RegisterProtoMin: 1}}
	case Transparent:
		return append([]expr.Any{port, &expr.TProxy{Family: unix.NFPROTO_UNSPEC, TableFamily: unix.NFPROTO_INET, RegPort: 1}}, append(mark, accept)...)
	case Divert:
		return append(mark, accept)
	case Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case Zone:
		return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(uint16(r.Value))}, &expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true}} //nolint:gosec // zones are 1 and 2
	case SetMark:
		return setMark(r.Value)
	case SaveMark:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true}}
	case RestoreMark:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
	}
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
}

func setMark(value uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
}

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

// The places of the ports in a TCP or UDP header.
const sourcePort, destinationPort = 0, 2

func portMatch(place uint32, op expr.CmpOp, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: place, Len: 2},
		compare(op, binaryutil.BigEndian.PutUint16(port)),
	}
}

// addressMatch matches the family and the address's leading bits.
func addressMatch(p netip.Prefix, source bool, op expr.CmpOp) []expr.Any {
	if !p.IsValid() {
		return nil
	}
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if source {
		offset = 12
	}
	if p.Addr().Is6() {
		family, offset, length = unix.NFPROTO_IPV6, 24, 16
		if source {
			offset = 8
		}
	}
	mask := make([]byte, length)
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, compare(expr.CmpOpEq, []byte{family}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		compare(op, p.Masked().Addr().AsSlice()),
	}
}
