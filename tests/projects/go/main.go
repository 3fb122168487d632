// A server that counts its visits, with nothing but the network below it.
package main

import (
	"bufio"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

var visits atomic.Int64

func main() {
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		println("cannot listen:", err.Error())
		os.Exit(1)
	}
	println("listening on 8080")
	for {
		connection, err := listener.Accept()
		if err != nil {
			println("cannot accept:", err.Error())
			os.Exit(1)
		}
		go serve(connection)
	}
}

// serve reads one request and answers it.
func serve(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() && lines.Text() != "" {
	}
	body := "visit " + strconv.FormatInt(visits.Add(1), 10) + " of a static program\n"
	connection.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body))
}
