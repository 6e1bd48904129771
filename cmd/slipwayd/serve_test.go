package main

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
)

// flood answers every stream with more than its connection has room for.
type flood struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	size int
}

func (f flood) DeltaAggregatedResources(rpc discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if err := rpc.Send(&discovery.DeltaDiscoveryResponse{SystemVersionInfo: string(bytes.Repeat([]byte("x"), f.size))}); err != nil {
		return err
	}
	<-rpc.Context().Done()
	return rpc.Context().Err()
}

// TestSlowProxyStays: a proxy that reads nothing for a while, as one does whose node has no time for it, is not cut off.
func TestSlowProxyStays(t *testing.T) {
	t.Parallel()
	const size, pause = 8 << 20, 14 * time.Second
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{options: options{maxConnectionAge: time.Hour}}
	server := grpc.NewServer(p.grpcOptions()...)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, flood{size: size})
	go func() { _ = server.Serve(p.patient(listener)) }()
	t.Cleanup(server.Stop)
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	if err := connection.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(connection, connection)
	ask(t, connection, framer)
	time.Sleep(pause)
	if err := connection.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < size; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got, size, err)
		}
		if data, ok := frame.(*http2.DataFrame); ok {
			got += len(data.Data())
		}
	}
}

// ask begins a stream by which as much may come as there is.
func ask(t *testing.T, connection net.Conn, framer *http2.Framer) {
	t.Helper()
	if _, err := connection.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	const window = 1<<30 - 1
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"},
		{":authority", "istiod"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}), framer.WriteWindowUpdate(0, window-65535),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		framer.WriteData(1, false, binary.BigEndian.AppendUint32([]byte{0}, 0)), // a message of no bytes
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}
