package main

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/Shopify/sarama"
	kafkabroker "github.com/go-micro/plugins/v4/broker/kafka"
	grpcclient "github.com/go-micro/plugins/v4/client/grpc"
	"github.com/go-micro/plugins/v4/registry/consul"
	"github.com/go-micro/plugins/v4/registry/etcd"
	grpcserver "github.com/go-micro/plugins/v4/server/grpc"
	_ "github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
	"go-micro.dev/v4"
	"go-micro.dev/v4/broker"
	"go-micro.dev/v4/logger"
	"go-micro.dev/v4/metadata"
	"go-micro.dev/v4/registry"
	"google.golang.org/protobuf/proto"

	"micro-rs/interop/go-chain/pb"
)

const (
	connectionCount = 64
	registerTTL     = 60 * time.Second
	registerEvery   = 30 * time.Second
	// The header whose value becomes the record's key, as in the Go services' patched plugin.
	keyHeader = "Pkey"
)

// newService plugs one service together. Options of go-micro apply in their order: what is plugged
// in first, then the names.
func newService(name string, s settings) micro.Service {
	return micro.NewService(
		micro.Server(grpcserver.NewServer()),
		micro.Client(grpcclient.NewClient()),
		micro.Registry(newRegistry(s.registry)),
		micro.Broker(newBroker(s)),
		micro.Name(name),
		micro.Address(s.listen),
		micro.RegisterTTL(registerTTL),
		micro.RegisterInterval(registerEvery),
	)
}

// newRegistry is the registry that a URL names, Consul's where it names no other.
func newRegistry(url string) registry.Registry {
	scheme, address, _ := strings.Cut(url, "://")
	if scheme == "etcd" {
		return etcd.NewRegistry(registry.Addrs(address))
	}
	return consul.NewRegistry(registry.Addrs(address))
}

func newBroker(s settings) broker.Broker {
	producer := sarama.NewConfig()
	producer.Version = sarama.V3_0_0_0
	producer.Producer.RequiredAcks = sarama.WaitForAll
	producer.Producer.Flush.Frequency = s.linger
	producer.Producer.Interceptors = []sarama.ProducerInterceptor{keyed{}}

	consumer := sarama.NewConfig()
	consumer.Version = sarama.V3_0_0_0
	consumer.Consumer.Return.Errors = true
	consumer.Consumer.Offsets.Initial = sarama.OffsetOldest

	failed := make(chan *sarama.ProducerError)
	go func() {
		for failure := range failed {
			logger.Errorf("event not published: %v", failure)
		}
	}()
	sent := make(chan *sarama.ProducerMessage)
	go func() {
		for range sent {
		}
	}()
	return kafkabroker.NewBroker(
		broker.Addrs(strings.Split(s.kafka, ",")...),
		kafkabroker.BrokerConfig(producer),
		kafkabroker.ClusterConfig(consumer),
		// Given both channels in one option, the plugin keeps the first only and hangs once
		// sarama's channel of successes is full.
		kafkabroker.AsyncProducer(failed, nil),
		kafkabroker.AsyncProducer(nil, sent),
	)
}

// publish sends one event of an order, with the headers of the fleet beside it.
func publish(ctx context.Context, events micro.Event, source, eventType string, order int64, event proto.Message) error {
	payload, err := proto.Marshal(event)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	ctx = metadata.MergeContext(ctx, metadata.Metadata{
		"Event-Type":     eventType,
		"Event_id":       uuid.NewString(),
		"Timestamp":      strconv.FormatInt(now, 10),
		"Source":         source,
		"Schema_version": "1.0.0",
		keyHeader:        strconv.FormatInt(order, 10),
	}, true)
	return events.Publish(ctx, &pb.BaseEvent{Timestamp: now, EventType: eventType, Payload: payload})
}

// keyed gives a record the key that its message names: the plugin has no option for it.
type keyed struct{}

func (keyed) OnSend(record *sarama.ProducerMessage) {
	if message, ok := record.Metadata.(*broker.Message); ok {
		record.Key = sarama.StringEncoder(message.Header[keyHeader])
	}
}

func openDatabase(s settings) (*sql.DB, error) {
	separator := "?"
	if strings.Contains(s.mysql, "?") {
		separator = "&"
	}
	db, err := sql.Open("mysql", s.mysql+separator+"interpolateParams=true")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connectionCount)
	db.SetMaxIdleConns(connectionCount)
	return db, db.Ping()
}

// inTransaction commits what work did, or rolls it back where work fails.
func inTransaction(db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}
