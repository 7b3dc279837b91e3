package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Shopify/sarama"
	kafkabroker "github.com/go-micro/plugins/v4/broker/kafka"
	grpcclient "github.com/go-micro/plugins/v4/client/grpc"
	"go-micro.dev/v4/broker"
	"go-micro.dev/v4/client"

	"micro-rs/interop/go-peer/pb"
)

func init() {
	commands["drive-calls"] = command{"calls Greeter.Hello in closed loops, a turn for each line of its input", driveCalls}
	commands["drive-publish"] = command{"publishes with receipts, a turn for each line of its input", drivePublish}
}

// turn is one line of the input: so much at a time, for so long.
type turn struct {
	Width  int `json:"width"`
	Millis int `json:"millis"`
}

// driveCalls measures a service that it finds in the registry.
func driveCalls(arguments []string) error {
	flags := newFlags("drive-calls")
	url := registryFlag(flags)
	service := flags.String("service", "go.micro.service.greeter", "the service's name in the registry")
	size := flags.Int("bytes", 100, "bytes of the name that is sent")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	caller := grpcclient.NewClient(client.Registry(known))
	name := strings.Repeat("x", *size)
	return turns(func(t turn) (int64, error) {
		return inLoops(t, func(int) error {
			reply := &pb.HelloReply{}
			request := caller.NewRequest(*service, "Greeter.Hello", &pb.HelloRequest{Name: name})
			if err := caller.Call(context.Background(), request, reply); err != nil {
				return err
			}
			if len(reply.Greeting) != len("Hello ")+len(name) {
				return fmt.Errorf("the greeting is %q", reply.Greeting)
			}
			return nil
		})
	})
}

// drivePublish measures the Kafka plugin: with as many goroutines as a turn is wide, each waiting for
// its receipt, or asynchronously with so many messages on their way.
func drivePublish(arguments []string) error {
	flags := newFlags("drive-publish")
	addresses := flags.String("kafka", "127.0.0.1:9092", "addresses of Kafka brokers, with commas between")
	topic := flags.String("topic", "", "the topic")
	size := flags.Int("bytes", 100, "bytes of a body")
	keyCount := flags.Int("keys", 1000, "how many keys take turns")
	isAsync := flags.Bool("async", false, "the plugin's asynchronous producer")
	header := pairs{}
	flags.Var(header, "header", "NAME=VALUE of each message's headers; may be repeated")
	_ = flags.Parse(arguments) // ExitOnError

	failures := make(chan *sarama.ProducerError, 1)
	successes := make(chan *sarama.ProducerMessage, 256)
	options := []broker.Option{}
	if *isAsync {
		// One option for each: of two channels in one option the plugin forgets the second.
		options = append(options, kafkabroker.AsyncProducer(failures, nil), kafkabroker.AsyncProducer(nil, successes))
	}
	kafka, err := newKafka(*addresses, options...)
	if err != nil {
		return err
	}
	body := compressible(*size)
	var number atomic.Int64
	send := func() error {
		message := &broker.Message{Header: make(map[string]string, len(header)+2), Body: body}
		for name, value := range header {
			message.Header[name] = value
		}
		message.Header["Micro-Topic"] = *topic
		message.Header[keyHeader] = strconv.FormatInt(number.Add(1)%int64(*keyCount), 10)
		return kafka.Publish(*topic, message)
	}
	err = turns(func(t turn) (int64, error) {
		if *isAsync {
			return inWindow(t, send, successes, failures)
		}
		return inLoops(t, func(int) error { return send() })
	})
	if err != nil {
		return err
	}
	return kafka.Disconnect()
}

// compressible are bytes of which half compress, other ones in each process.
func compressible(size int) []byte {
	body := make([]byte, size)
	state := uint32(time.Now().UnixNano()) | 1
	for index := range body {
		body[index] = 'a'
		if index%2 == 0 {
			state = state*1664525 + 1013904223
			body[index] = byte(state >> 24)
		}
	}
	return body
}

// turns runs a turn for each line of the input and tells what it came to.
func turns(run func(turn) (int64, error)) error {
	tell(map[string]any{"ready": true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var t turn
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil || t.Width < 1 || t.Millis < 1 {
			return fmt.Errorf("the turn %q is none; expected {\"width\":16,\"millis\":1000}", lines.Text())
		}
		began, cpuBegan := time.Now(), cpuMicros()
		count, err := run(t)
		if err != nil {
			return err
		}
		tell(map[string]any{
			"count": count, "seconds": time.Since(began).Seconds(), "cpu_micros": cpuMicros() - cpuBegan,
		})
	}
	return lines.Err()
}

// inLoops does something again and again in so many goroutines and counts how often.
func inLoops(t turn, once func(loop int) error) (int64, error) {
	end := time.Now().Add(time.Duration(t.Millis) * time.Millisecond)
	var count atomic.Int64
	failures := make(chan error, t.Width)
	var running sync.WaitGroup
	for loop := range t.Width {
		running.Add(1)
		go func() {
			defer running.Done()
			for time.Now().Before(end) {
				if err := once(loop); err != nil {
					failures <- err
					return
				}
				count.Add(1)
			}
		}()
	}
	running.Wait()
	select {
	case err := <-failures:
		return 0, err
	default:
		return count.Load(), nil
	}
}

// inWindow sends with so many on their way and counts the receipts.
func inWindow(
	t turn, send func() error, successes <-chan *sarama.ProducerMessage, failures <-chan *sarama.ProducerError,
) (int64, error) {
	end := time.Now().Add(time.Duration(t.Millis) * time.Millisecond)
	room := make(chan struct{}, t.Width)
	receipts := make(chan error, 1)
	sent := make(chan int64, 1)
	var count int64
	go func() {
		total := int64(-1)
		for total != count {
			select {
			case <-successes:
				count++
				<-room
			case failure := <-failures:
				receipts <- failure
				return
			case total = <-sent:
			}
		}
		receipts <- nil
	}()
	var number int64
	for ; time.Now().Before(end); number++ {
		select {
		case room <- struct{}{}:
		case err := <-receipts:
			return 0, err
		}
		if err := send(); err != nil {
			return 0, err
		}
	}
	sent <- number
	if err := <-receipts; err != nil {
		return 0, err
	}
	return count, nil
}

// cpuMicros is the processor time of this process, user and system.
func cpuMicros() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Microseconds()
}
