// Command go-chain is the payment chain on go-micro v4: what the Rust services are measured against.
//
//	go-chain order   --registry URL --kafka ADDR --mysql DSN --listen ADDR --topic NAME
//	go-chain product --registry URL --kafka ADDR --mysql DSN --topic NAME --group NAME
//
// It has the shape of the Go order and product services with events through an asynchronous
// producer: no outbox, no confirmation, the event published inside the transaction. With --confirm
// the product service says what it deducted and the order service notes it: so each can take the
// place of the Rust one.
//
// With --wire grpc the order service has the goods deducted by a call within its transaction, as the
// first of the Go services did, and nothing is published.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

// settings are what both services are told.
type settings struct {
	registry, kafka, mysql, listen, topic, group, confirm, wire string
	linger                                                      time.Duration
}

func main() {
	if len(os.Args) < 2 {
		fail("expected `order` or `product` and its flags")
	}
	var s settings
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&s.registry, "registry", "consul://127.0.0.1:8500", "consul://HOST:PORT or etcd://HOST:PORT")
	flags.StringVar(&s.kafka, "kafka", "127.0.0.1:9092", "address of a Kafka broker")
	flags.StringVar(&s.mysql, "mysql", "", "data source name, user:password@tcp(host:port)/database")
	flags.StringVar(&s.listen, "listen", "127.0.0.1:0", "where calls are taken")
	flags.StringVar(&s.topic, "topic", "OrderEvent", "topic of the payment events")
	flags.StringVar(&s.group, "group", "product-consumer", "consumer group of the service that subscribes")
	flags.StringVar(&s.confirm, "confirm", "", "topic on which the product service says what it deducted; none: it says nothing")
	flags.StringVar(&s.wire, "wire", "events", "how goods are deducted: events, or grpc, a call within the callback")
	flags.DurationVar(&s.linger, "linger", 0, "how long the producer lets a batch fill")
	_ = flags.Parse(os.Args[2:]) // ExitOnError
	if s.wire != "events" && s.wire != "grpc" {
		fail("--wire is events or grpc, not " + s.wire)
	}

	// go-micro reads os.Args where it parses flags of its own: these are ours.
	os.Args = os.Args[:1]

	var err error
	switch flags.Name() {
	case "order":
		err = runOrder(s)
	case "product":
		err = runProduct(s)
	default:
		err = fmt.Errorf("no service %q: expected order or product", flags.Name())
	}
	if err != nil {
		fail(err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "go-chain: "+message)
	os.Exit(1)
}
