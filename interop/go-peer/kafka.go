package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/sarama"
	kafkabroker "github.com/go-micro/plugins/v4/broker/kafka"
	"go-micro.dev/v4/broker"
)

// keyHeader is the header whose value becomes the record's key, as the Go services have it.
const keyHeader = "Pkey"

func init() {
	commands["publish"] = command{"publishes messages through the Kafka plugin, each with a key", publish}
	commands["subscribe"] = command{"tells the messages that the Kafka plugin receives", subscribe}
}

// newKafka is the plugin as the Go services set it up: all replicas, keys, the earliest message first.
func newKafka(addresses string, options ...broker.Option) (broker.Broker, error) {
	producer := sarama.NewConfig()
	producer.Version = sarama.V3_0_0_0
	producer.Producer.RequiredAcks = sarama.WaitForAll
	producer.Producer.Return.Successes = true
	producer.Producer.Return.Errors = true
	producer.Producer.Interceptors = []sarama.ProducerInterceptor{keyed{}}
	consumer := sarama.NewConfig()
	consumer.Version = sarama.V3_0_0_0
	consumer.Consumer.Return.Errors = true
	consumer.Consumer.Offsets.Initial = sarama.OffsetOldest
	kafka := kafkabroker.NewBroker(append([]broker.Option{
		broker.Addrs(strings.Split(addresses, ",")...),
		kafkabroker.BrokerConfig(producer),
		kafkabroker.ClusterConfig(consumer),
	}, options...)...)
	if err := kafka.Init(); err != nil {
		return nil, err
	}
	return kafka, kafka.Connect()
}

// keyed gives a record the key that its message names: the plugin has no option for it.
type keyed struct{}

func (keyed) OnSend(record *sarama.ProducerMessage) {
	if message, ok := record.Metadata.(*broker.Message); ok && message.Header[keyHeader] != "" {
		record.Key = sarama.StringEncoder(message.Header[keyHeader])
	}
}

// publish sends bodies 0, 1, … with the keys in turn, one after the other: "key-0", "key-1", … or
// another prefix.
func publish(arguments []string) error {
	flags := newFlags("publish")
	addresses := flags.String("kafka", "127.0.0.1:9092", "addresses of Kafka brokers, with commas between")
	topic := flags.String("topic", "", "the topic")
	count := flags.Int("count", 1, "how many messages")
	keys := flags.Int("keys", 1, "how many keys; 0: messages without a key")
	keyPrefix := flags.String("key-prefix", "key-", "what a key begins with")
	prefix := flags.String("prefix", "", "what a body begins with")
	header := pairs{}
	flags.Var(header, "header", "NAME=VALUE of each message's headers; may be repeated")
	_ = flags.Parse(arguments) // ExitOnError

	kafka, err := newKafka(*addresses)
	if err != nil {
		return err
	}
	for number := 0; number < *count; number++ {
		message := &broker.Message{Header: map[string]string{}, Body: []byte(fmt.Sprintf("%s%d", *prefix, number))}
		for name, value := range header {
			message.Header[name] = value
		}
		message.Header["Micro-Topic"] = *topic
		if *keys > 0 {
			message.Header[keyHeader] = fmt.Sprintf("%s%d", *keyPrefix, number%*keys)
		}
		if err := kafka.Publish(*topic, message); err != nil {
			return err
		}
	}
	tell(map[string]any{"published": *count})
	return kafka.Disconnect()
}

// subscribe tells what it receives until it has so many messages, or nobody holds its input open.
func subscribe(arguments []string) error {
	flags := newFlags("subscribe")
	addresses := flags.String("kafka", "127.0.0.1:9092", "addresses of Kafka brokers, with commas between")
	topic := flags.String("topic", "", "the topic")
	group := flags.String("group", "", "the consumer group")
	count := flags.Int("count", 1, "after how many messages it ends; 0: when its input ends")
	_ = flags.Parse(arguments) // ExitOnError

	kafka, err := newKafka(*addresses)
	if err != nil {
		return err
	}
	var lock sync.Mutex
	received := 0
	done := make(chan struct{})
	handler := func(event broker.Event) error {
		lock.Lock()
		defer lock.Unlock()
		message := event.Message()
		// A list of bytes is base64 in Go's JSON.
		tell(map[string]any{"topic": event.Topic(), "header": message.Header, "body": message.Body})
		received++
		if received == *count {
			close(done)
		}
		return nil
	}
	if _, err := kafka.Subscribe(*topic, handler, broker.Queue(*group)); err != nil {
		return err
	}
	tell(map[string]any{"subscribed": *topic})
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(ended)
	}()
	select {
	case <-done:
		// The plugin commits what it has marked once a second.
		time.Sleep(1500 * time.Millisecond)
	case <-ended:
	}
	return kafka.Disconnect()
}
