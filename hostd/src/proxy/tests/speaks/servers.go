// Go's servers, plain and with TLS: FOLDER with cert.pem and key.pem. Each says its name and port; both end with the input.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

func counter() http.Handler {
	var count int64
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		number := atomic.AddInt64(&count, 1)
		body, _ := io.ReadAll(request.Body)
		headers := 0
		for _, values := range request.Header {
			headers += len(values)
		}
		if strings.HasPrefix(request.URL.Path, "/headers/") {
			many, _ := strconv.Atoi(strings.TrimPrefix(request.URL.Path, "/headers/"))
			for line := 0; line < many; line++ {
				response.Header().Set(fmt.Sprintf("X-N%d", line), request.URL.RawQuery)
			}
			fmt.Fprint(response, headers)
			return
		}
		if request.URL.Path == "/bad" {
			response.WriteHeader(400)
		}
		fmt.Fprintf(response, "%s %d %d", request.Method, len(body), number)
	})
}

func main() {
	log.SetOutput(io.Discard)
	for _, name := range []string{"go", "go-tls"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(name, listener.Addr().(*net.TCPAddr).Port)
		if name == "go" {
			go http.Serve(listener, counter())
		} else {
			go http.ServeTLS(listener, counter(), os.Args[1]+"/cert.pem", os.Args[1]+"/key.pem")
		}
	}
	io.Copy(io.Discard, os.Stdin)
}
