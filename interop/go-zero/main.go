// Command go-zero is go-zero's own discovery as the Rust tests meet it.
//
//	go-zero publish   HOST:PORT KEY VALUE   publishes the value until stdin ends
//	go-zero subscribe HOST:PORT KEY         tells the values, at first and at each change
//
// A result is one line of JSON on stdout; what go-zero logs goes to stderr.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/zeromicro/go-zero/core/discov"
	"github.com/zeromicro/go-zero/core/logx"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "go-zero: expected publish HOST:PORT KEY VALUE, or subscribe HOST:PORT KEY")
		os.Exit(2)
	}
	logx.SetWriter(logx.NewWriter(os.Stderr))
	command, servers, key := os.Args[1], []string{os.Args[2]}, os.Args[3]
	var err error
	switch {
	case command == "publish" && len(os.Args) == 5:
		err = publish(servers, key, os.Args[4])
	case command == "subscribe":
		err = subscribe(servers, key)
	default:
		err = fmt.Errorf("no such command: %q", command)
	}
	if err != nil {
		tell(map[string]any{"failure": err.Error()})
		os.Exit(1)
	}
}

func publish(servers []string, key, value string) error {
	publisher := discov.NewPublisher(servers, key, value)
	if err := publisher.KeepAlive(); err != nil {
		return err
	}
	tell(map[string]any{"published": value})
	_, _ = io.Copy(io.Discard, os.Stdin)
	publisher.Stop()
	return nil
}

func subscribe(servers []string, key string) error {
	subscriber, err := discov.NewSubscriber(servers, key)
	if err != nil {
		return err
	}
	values := func() {
		found := append([]string{}, subscriber.Values()...)
		sort.Strings(found)
		tell(map[string]any{"values": found})
	}
	subscriber.AddListener(values)
	values()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// tell prints one result.
func tell(result any) {
	line, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
