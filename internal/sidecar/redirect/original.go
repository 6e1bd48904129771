package redirect

import (
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ipv6OriginalDestination is IP6T_SO_ORIGINAL_DST.
const ipv6OriginalDestination = 80

// OriginalDestination is where a connection that was redirected was to go.
func OriginalDestination(connection syscall.Conn) (netip.AddrPort, error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var out netip.AddrPort
	var failed error
	err = raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if err != nil {
			failed = err
			return
		}
		if local, ok := name.(*unix.SockaddrInet6); ok && !netip.AddrFrom16(local.Addr).Is4In6() {
			var address unix.RawSockaddrInet6
			if failed = getsockopt(fd, unix.IPPROTO_IPV6, ipv6OriginalDestination, unsafe.Pointer(&address), unsafe.Sizeof(address)); failed == nil {
				out = netip.AddrPortFrom(netip.AddrFrom16(address.Addr), ntohs(address.Port))
			}
			return
		}
		var address unix.RawSockaddrInet4
		if failed = getsockopt(fd, unix.IPPROTO_IP, unix.SO_ORIGINAL_DST, unsafe.Pointer(&address), unsafe.Sizeof(address)); failed == nil {
			out = netip.AddrPortFrom(netip.AddrFrom4(address.Addr), ntohs(address.Port))
		}
	})
	if err == nil && failed != nil {
		err = fmt.Errorf("ask for the original destination: %w", failed)
	}
	return out, err
}

func getsockopt(fd uintptr, level, option int, into unsafe.Pointer, size uintptr) error {
	length := uint32(size) //nolint:gosec // of a structure
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(into), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return errno
	}
	return nil
}

func ntohs(port uint16) uint16 { return port<<8 | port>>8 }
