package main

import (
	"io"
	"net"
	"os"
)

// talk sends its input to a socket of the unix kind and writes what comes back, until
// that ends. The nc of busybox does not know such sockets.
func talk(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.Copy(conn, os.Stdin); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}
