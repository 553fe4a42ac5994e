// Package freeport chooses ports for servers that cannot be told to choose one, or
// whose port must be known before they run.
//
// A port that the kernel chose and that was closed again can be given to anybody else
// before the server binds it: on a machine with hundreds of connections a second that
// happens. The ports of this package lie below the range from which the kernel serves
// listeners and clients that take any (net.ipv4.ip_local_port_range, ip(7)), so that
// only somebody who asks for that very number can take them.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// Ports below first belong to well-known services.
const first = 10_000

// Choose returns a port of 127.0.0.1 on which nobody listens.
func Choose() (string, error) {
	end := 32_768
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if _, err := fmt.Sscan(string(text), &end); err != nil {
			return "", fmt.Errorf("net.ipv4.ip_local_port_range is %q: %w", text, err)
		}
	}
	if end <= first {
		return "", fmt.Errorf("no port to choose: the kernel gives away all from %d on (net.ipv4.ip_local_port_range)", end)
	}
	var err error
	for range 100 {
		port := strconv.Itoa(first + rand.IntN(end-first))
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("choosing a port: %w", err)
}
