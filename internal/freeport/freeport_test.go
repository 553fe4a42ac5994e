package freeport

import (
	"net"
	"strconv"
	"testing"
)

// TestChoose: what is chosen can be listened on, and is not what the kernel chooses.
func TestChoose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kernels := l.Addr().(*net.TCPAddr).Port
	for range 20 {
		port, err := Choose()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < first || n >= kernels && kernels >= 32_768 {
			t.Errorf("port %q, the kernel gives %d; %v", port, kernels, err)
		}
		own, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		own.Close()
	}
}
