package main

import (
	"flag"
	"fmt"
	"strings"
	"time"

	grpcclient "github.com/go-micro/plugins/v4/client/grpc"
	"github.com/go-micro/plugins/v4/registry/consul"
	"github.com/go-micro/plugins/v4/registry/etcd"
	"go-micro.dev/v4/client"
	"go-micro.dev/v4/registry"
)

const (
	registerTTL   = 60 * time.Second
	registerEvery = 30 * time.Second
)

// newFlags are the flags of a subcommand; a wrong one ends the program with 2.
func newFlags(name string) *flag.FlagSet {
	return flag.NewFlagSet("go-peer "+name, flag.ExitOnError)
}

// registryFlag adds --registry.
func registryFlag(flags *flag.FlagSet) *string {
	return flags.String("registry", "", "consul://HOST:PORT or etcd://HOST:PORT; none: one in memory")
}

// newRegistry is the registry that a URL names.
func newRegistry(url string) (registry.Registry, error) {
	scheme, address, _ := strings.Cut(url, "://")
	switch scheme {
	case "consul":
		return consul.NewRegistry(registry.Addrs(address)), nil
	case "etcd":
		return etcd.NewRegistry(registry.Addrs(address)), nil
	case "":
		return registry.NewMemoryRegistry(), nil
	}
	return nil, fmt.Errorf("the registry %q is not known; expected consul://HOST:PORT or etcd://HOST:PORT", url)
}

// protocolFlag adds --protocol.
func protocolFlag(flags *flag.FlagSet) *string {
	return flags.String("protocol", "grpc", "grpc, or mucp, which is go-micro's own")
}

// newClient is the client that speaks a protocol.
func newClient(protocol string, options ...client.Option) (client.Client, error) {
	switch protocol {
	case "grpc":
		return grpcclient.NewClient(options...), nil
	case "mucp":
		return client.NewClient(options...), nil
	}
	return nil, unknownProtocol(protocol)
}

func unknownProtocol(protocol string) error {
	return fmt.Errorf("the protocol %q is not known; expected grpc or mucp", protocol)
}

// registryOf knows one instance, which speaks mucp.
func registryOf(service, address string) (registry.Registry, error) {
	known := registry.NewMemoryRegistry()
	node := &registry.Node{Id: service + "-1", Address: address, Metadata: map[string]string{"protocol": "mucp"}}
	return known, known.Register(&registry.Service{Name: service, Version: "latest", Nodes: []*registry.Node{node}})
}

// pairs are flags of the form NAME=VALUE that may be given several times.
type pairs map[string]string

func (p pairs) String() string { return "" }

func (p pairs) Set(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found || name == "" {
		return fmt.Errorf("expected NAME=VALUE")
	}
	p[name] = value
	return nil
}

// texts are the values of a flag that may be given several times.
type texts []string

func (t *texts) String() string { return "" }

func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}
