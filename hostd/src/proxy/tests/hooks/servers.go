// Go's server with its own router, and with a handler that cleans the path by itself. Each says its name and port; both end with the input.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync/atomic"
)

const hooks = "/aws/lambda-microvms/runtime/v1/"

func listen(name string, handler http.Handler) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(name, listener.Addr().(*net.TCPAddr).Port)
	go http.Serve(listener, handler)
}

func main() {
	var routed, cleaned int64
	mux := http.NewServeMux()
	mux.HandleFunc(hooks, func(response http.ResponseWriter, _ *http.Request) {
		atomic.AddInt64(&routed, 1)
		io.WriteString(response, "a hook")
	})
	mux.HandleFunc("/reached", func(response http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(response, atomic.LoadInt64(&routed))
	})
	listen("go", mux)
	listen("go-cleaning", http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		clean := path.Clean(request.URL.Path)
		switch {
		case clean == "/reached":
			fmt.Fprint(response, atomic.LoadInt64(&cleaned))
		case strings.HasPrefix(clean, hooks):
			atomic.AddInt64(&cleaned, 1)
			io.WriteString(response, "a hook")
		default:
			http.NotFound(response, request)
		}
	}))
	io.Copy(io.Discard, os.Stdin)
}
