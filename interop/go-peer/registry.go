package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go-micro.dev/v4/registry"
)

func init() {
	commands["register"] = command{"keeps the services registered that stdin names, one line of JSON each", register}
	commands["lookup"] = command{"the versions of a service, as GetService has them", lookup}
	commands["services"] = command{"the names of all services, as ListServices has them", services}
	commands["watch"] = command{"the changes of a service, as a Watcher tells them", watch}
}

// register reads registry.Service objects from stdin. Each line replaces what was registered before,
// which is refreshed until the next one comes; at stdin's end it is withdrawn.
func register(arguments []string) error {
	flags := newFlags("register")
	url := registryFlag(flags)
	ttl := flags.Duration("ttl", registerTTL, "how long a registration lasts")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		input := bufio.NewScanner(os.Stdin)
		input.Buffer(nil, 1<<20)
		for input.Scan() {
			lines <- append([]byte(nil), input.Bytes()...)
		}
	}()
	refresh := time.NewTicker(*ttl / 3)
	defer refresh.Stop()
	var current *registry.Service
	for {
		select {
		case line, isOpen := <-lines:
			if !isOpen {
				if current == nil {
					return nil
				}
				if err := known.Deregister(current); err != nil {
					return err
				}
				tell(map[string]any{"deregistered": current.Nodes[0].Id})
				return nil
			}
			var next registry.Service
			if err := json.Unmarshal(line, &next); err != nil || len(next.Nodes) == 0 {
				return fmt.Errorf("a line is no service with a node: %v", err)
			}
			current = &next
			if err := known.Register(current, registry.RegisterTTL(*ttl)); err != nil {
				return err
			}
			tell(map[string]any{"registered": current.Nodes[0].Id})
		case <-refresh.C:
			if current == nil {
				continue
			}
			if err := known.Register(current, registry.RegisterTTL(*ttl)); err != nil {
				fmt.Fprintln(os.Stderr, "go-peer: a refresh failed: "+err.Error())
			}
		}
	}
}

func lookup(arguments []string) error {
	flags := newFlags("lookup")
	url := registryFlag(flags)
	name := flags.String("service", "", "the service's name")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	found, err := known.GetService(*name)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	tell(map[string]any{"services": found})
	return nil
}

func services(arguments []string) error {
	flags := newFlags("services")
	url := registryFlag(flags)
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	found, err := known.ListServices()
	if err != nil {
		return err
	}
	names := []string{}
	for _, service := range found {
		names = append(names, service.Name)
	}
	tell(map[string]any{"names": names})
	return nil
}

func watch(arguments []string) error {
	flags := newFlags("watch")
	url := registryFlag(flags)
	name := flags.String("service", "", "the service's name")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	watcher, err := known.Watch(registry.WatchService(*name))
	if err != nil {
		return err
	}
	tell(map[string]any{"watching": *name})
	for {
		change, err := watcher.Next()
		if err != nil {
			return err
		}
		tell(map[string]any{"action": change.Action, "service": change.Service})
	}
}
