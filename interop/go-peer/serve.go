package main

import (
	"fmt"
	"time"

	grpcserver "github.com/go-micro/plugins/v4/server/grpc"
	"go-micro.dev/v4"
	"go-micro.dev/v4/registry"
	"go-micro.dev/v4/server"
)

// registeredMax is how long a service may take until its registry knows it.
const registeredMax = 10 * time.Second

func init() {
	commands["serve"] = command{"a service with the handler Greeter, until it is told to end", serve}
}

func serve(arguments []string) error {
	flags := newFlags("serve")
	url := registryFlag(flags)
	name := flags.String("service", "go.micro.service.greeter", "the service's name in the registry")
	version := flags.String("version", "latest", "the service's version")
	listen := flags.String("listen", "127.0.0.1:0", "where calls are taken")
	protocol := protocolFlag(flags)
	ttl := flags.Duration("ttl", registerTTL, "how long a registration lasts")
	metadata := pairs{}
	flags.Var(metadata, "metadata", "NAME=VALUE of the instance's metadata; may be repeated")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	serving, err := newServer(*protocol)
	if err != nil {
		return err
	}
	calling, err := newClient(*protocol)
	if err != nil {
		return err
	}
	service := micro.NewService(
		micro.Server(serving),
		micro.Client(calling),
		micro.Registry(known),
		micro.Name(*name),
		micro.Version(*version),
		micro.Address(*listen),
		micro.Metadata(metadata),
		micro.RegisterTTL(*ttl),
		micro.RegisterInterval(*ttl/2),
	)
	service.Init(micro.AfterStart(func() error { return tellReady(service, known) }))
	if err := micro.RegisterHandler(service.Server(), &Greeter{}); err != nil {
		return err
	}
	return service.Run()
}

// newServer is the server that speaks a protocol.
func newServer(protocol string) (server.Server, error) {
	switch protocol {
	case "grpc":
		return grpcserver.NewServer(), nil
	case "mucp":
		return server.NewServer(), nil
	}
	return nil, unknownProtocol(protocol)
}

// tellReady waits until the registry has this instance: go-micro itself only logs where it fails to
// register.
func tellReady(service micro.Service, known registry.Registry) error {
	options := service.Server().Options()
	id := options.Name + "-" + options.Id
	for end := time.Now().Add(registeredMax); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		versions, err := known.GetService(options.Name)
		if err != nil {
			continue
		}
		for _, version := range versions {
			for _, node := range version.Nodes {
				if node.Id == id {
					tell(map[string]any{"ready": map[string]string{
						"service": options.Name, "id": id, "address": node.Address,
					}})
					return nil
				}
			}
		}
	}
	return fmt.Errorf("%s is not in the registry after %s", id, registeredMax)
}
