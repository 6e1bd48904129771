package redirect

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is ours alone: applying replaces it whole, so applying twice is applying once.
const tableName = "istio-redirect"

// Apply puts the plan in force in the network namespace of this process, in one transaction.
func Apply(plan Plan) error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	table := connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	connection.DelTable(table) // added first, since deleting what is not there is an error
	table = connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	prerouting := connection.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	output := connection.AddChain(&nftables.Chain{Table: table, Name: "output", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	if len(plan.RawOutbound) > 0 {
		raw := map[string]*nftables.ChainHook{"raw-prerouting": nftables.ChainHookPrerouting, "raw-output": nftables.ChainHookOutput}
		for name, rules := range map[string][]Rule{"raw-prerouting": plan.RawInbound, "raw-output": plan.RawOutbound} {
			chain := connection.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: raw[name], Priority: nftables.ChainPriorityRaw})
			for _, rule := range rules {
				connection.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: expressions(plan, rule)})
			}
		}
	}
	for _, rule := range plan.Inbound {
		connection.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: expressions(plan, rule)})
	}
	for _, rule := range plan.Outbound {
		connection.AddRule(&nftables.Rule{Table: table, Chain: output, Exprs: expressions(plan, rule)})
	}
	if err := connection.Flush(); err != nil {
		return fmt.Errorf("apply the rules: %w", err)
	}
	return nil
}

// Cleanup takes the rules away; where there are none it does nothing.
func Cleanup() error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	connection.DelTable(connection.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}))
	return connection.Flush()
}

// expressions translates a rule: the protocol first, then each condition, then the verdict.
func expressions(plan Plan, r Rule) []expr.Any {
	protocol := byte(unix.IPPROTO_TCP)
	if r.UDP {
		protocol = unix.IPPROTO_UDP
	}
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{protocol})}
	if r.Loopback {
		out = append(out, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, compare(expr.CmpOpEq, []byte("lo\x00")))
	}
	owner := expr.CmpOpEq
	if r.Not {
		owner = expr.CmpOpNeq
	}
	if r.UID != nil {
		out = append(out, &expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, compare(owner, binaryutil.NativeEndian.PutUint32(*r.UID)))
	}
	if r.GID != nil {
		out = append(out, &expr.Meta{Key: expr.MetaKeySKGID, Register: 1}, compare(owner, binaryutil.NativeEndian.PutUint32(*r.GID)))
	}
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
	out = append(out, &expr.Counter{})
	switch r.Verdict {
	case ToOutbound:
		return append(out, redirectTo(plan.OutboundPort)...)
	case ToInbound:
		return append(out, redirectTo(plan.InboundPort)...)
	case ToDNS:
		return append(out, redirectTo(plan.DNSPort)...)
	case ToZone:
		return append(out, &expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(r.Zone)}, &expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true})
	}
	return append(out, &expr.Verdict{Kind: expr.VerdictReturn})
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

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)}, &expr.Redir{RegisterProtoMin: 1}}
}
