package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"go-micro.dev/v4/client"
	rawcodec "go-micro.dev/v4/codec/bytes"
	microerrors "go-micro.dev/v4/errors"
	"go-micro.dev/v4/metadata"
	// As in a service that has Google's details among its own: then a client reads them, and ends
	// with a panic where the first one is none of go-micro's.
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"micro-rs/interop/go-peer/pb"
)

func init() {
	commands["call"] = command{"one call of a service, by its name or at an address", call}
}

// method is what a call of an endpoint sends and gets.
type method struct{ request, reply func() proto.Message }

// methods are those whose messages are given and told as JSON.
var methods = map[string]method{
	"Greeter.Hello":   {message[pb.HelloRequest](), message[pb.HelloReply]()},
	"Greeter.Fail":    {message[pb.FailRequest](), message[pb.HelloReply]()},
	"Greeter.Inspect": {message[pb.InspectRequest](), message[pb.InspectReply]()},
	"Greeter.Echo":    {message[pb.Everything](), message[pb.Everything]()},
	"Greeter.Wait":    {message[pb.WaitRequest](), message[pb.HelloReply]()},
	"Greeter.Count":   {message[pb.CountRequest](), message[pb.Number]()},
	"Greeter.Sum":     {message[pb.Number](), message[pb.Number]()},
	"Greeter.Chat":    {message[pb.HelloRequest](), message[pb.HelloReply]()},
}

func message[T any, P interface {
	*T
	proto.Message
}]() func() proto.Message {
	return func() proto.Message { return P(new(T)) }
}

func copyMessage(to, from proto.Message) { proto.Merge(to, from) }

// calling is one call as the command line tells it.
type calling struct {
	client   client.Client
	request  func(body any) client.Request
	options  []client.CallOption
	endpoint string
	isRaw    bool
}

func call(arguments []string) error {
	flags := newFlags("call")
	url := registryFlag(flags)
	service := flags.String("service", "go.micro.service.greeter", "the service's name in the registry")
	endpoint := flags.String("endpoint", "Greeter.Hello", "Handler.Method, or a path that begins with /")
	address := flags.String("address", "", "call this host:port and ask no registry")
	kind := flags.String("kind", "unary", "unary, or how a stream is used: server, client or bidi")
	contentType := flags.String("content-type", "", "of the request; Go's default is application/grpc+proto, in mucp application/json")
	timeout := flags.Duration("timeout", 0, "for the call's context; none: Go's default of 30 s for unary calls")
	requestTimeout := flags.Duration("request-timeout", 0, "go-micro's own option, without a deadline of the context")
	connectionTimeout := flags.Duration("connection-timeout", 0, "of mucp, which it sends as the time limit; Go's default is 5 s")
	protocol := protocolFlag(flags)
	count := flags.Int("count", 1, "how many times a unary call is made, one after the other")
	isRaw := flags.Bool("raw", false, "messages are base64 of encoded messages, of any method there is")
	sent := texts{}
	flags.Var(&sent, "message", "a message as proto3 JSON; of streams may be repeated")
	header := pairs{}
	flags.Var(header, "metadata", "NAME=VALUE of the call's metadata; may be repeated")
	_ = flags.Parse(arguments) // ExitOnError

	known, err := newRegistry(*url)
	if err != nil {
		return err
	}
	if *protocol == "mucp" && *address != "" {
		// At an address alone go-micro speaks its oldest codecs: it is the node's metadata that says mucp.
		if known, err = registryOf(*service, *address); err != nil {
			return err
		}
		*address = ""
	}
	calls, err := newClient(*protocol, client.Registry(known))
	if err != nil {
		return err
	}
	c := calling{client: calls, endpoint: *endpoint, isRaw: *isRaw}
	c.request = func(body any) client.Request {
		options := []client.RequestOption{}
		if *contentType != "" {
			options = append(options, client.WithContentType(*contentType))
		}
		return c.client.NewRequest(*service, *endpoint, body, options...)
	}
	// A call that fails is told as it failed.
	c.options = append(c.options, client.WithRetries(0))
	if *address != "" {
		c.options = append(c.options, client.WithAddress(*address))
	}
	if *requestTimeout > 0 {
		c.options = append(c.options, client.WithRequestTimeout(*requestTimeout), client.WithStreamTimeout(*requestTimeout))
	}
	if *connectionTimeout > 0 {
		c.options = append(c.options, func(o *client.CallOptions) { o.ConnectionTimeout = *connectionTimeout })
	}
	ctx := metadata.NewContext(context.Background(), metadata.Metadata(header))
	if *timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *timeout)
		defer cancel()
	}
	if *kind == "unary" {
		for range *count {
			if err = c.unary(ctx, sent); err != nil {
				break
			}
		}
	} else {
		err = c.stream(ctx, *kind, sent)
	}
	return tellOutcome(err)
}

func (c *calling) unary(ctx context.Context, sent texts) error {
	text := "{}"
	if c.isRaw {
		text = ""
	}
	if len(sent) > 0 {
		text = sent[0]
	}
	body, err := c.encode(text)
	if err != nil {
		return err
	}
	reply, err := c.reply()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := c.client.Call(ctx, c.request(body), reply, c.options...); err != nil {
		return &failedCall{err, time.Since(began)}
	}
	return c.tellReply(reply)
}

// stream opens a stream and uses it as `kind` says. As go-micro's generated code does, it ends its
// side only where the method takes a stream.
func (c *calling) stream(ctx context.Context, kind string, sent texts) error {
	began := time.Now()
	stream, err := c.client.Stream(ctx, c.request(nil), c.options...)
	if err != nil {
		return &failedCall{err, time.Since(began)}
	}
	defer stream.Close()
	for _, text := range sent {
		body, err := c.encode(text)
		if err != nil {
			return err
		}
		if err := stream.Send(body); err != nil {
			return &failedCall{err, time.Since(began)}
		}
		if kind == "bidi" {
			if err := c.receive(stream); err != nil {
				return &failedCall{err, time.Since(began)}
			}
		}
	}
	if kind != "server" {
		if err := stream.(client.Closer).CloseSend(); err != nil {
			return &failedCall{err, time.Since(began)}
		}
	}
	for {
		switch err := c.receive(stream); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &failedCall{err, time.Since(began)}
		}
	}
}

func (c *calling) receive(stream client.Stream) error {
	reply, err := c.reply()
	if err != nil {
		return err
	}
	if err := stream.Recv(reply); err != nil {
		return err
	}
	return c.tellReply(reply)
}

func (c *calling) encode(text string) (any, error) {
	if c.isRaw {
		data, err := base64.StdEncoding.DecodeString(text)
		return &rawcodec.Frame{Data: data}, err
	}
	known, isKnown := methods[c.endpoint]
	if !isKnown {
		// The path of a method that is there, by another name.
		known = methods["Greeter.Hello"]
	}
	body := known.request()
	return body, protojson.Unmarshal([]byte(text), body)
}

func (c *calling) reply() (any, error) {
	if c.isRaw {
		return &rawcodec.Frame{}, nil
	}
	if known, isKnown := methods[c.endpoint]; isKnown {
		return known.reply(), nil
	}
	return methods["Greeter.Hello"].reply(), nil
}

func (c *calling) tellReply(reply any) error {
	if frame, isFrame := reply.(*rawcodec.Frame); isFrame {
		tell(map[string]any{"reply": base64.StdEncoding.EncodeToString(frame.Data)})
		return nil
	}
	text, err := protojson.Marshal(reply.(proto.Message))
	if err != nil {
		return err
	}
	// protojson varies its spaces on purpose.
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return err
	}
	tell(map[string]any{"reply": json.RawMessage(line.Bytes())})
	return nil
}

// failedCall is how a call failed, and when.
type failedCall struct {
	error
	after time.Duration
}

func (f *failedCall) Unwrap() error { return f.error }

// tellOutcome tells an error's fields: of a unary call those of go-micro's error, of a stream, whose
// errors go-micro hands on as they are, those of the gRPC status.
func tellOutcome(err error) error {
	var failed *failedCall
	if !errors.As(err, &failed) {
		return err
	}
	told := map[string]any{"after_ms": failed.after.Milliseconds()}
	var micro *microerrors.Error
	// mucp's client hands on what a server said as a text.
	if parsed := microerrors.Parse(failed.Error()); parsed.Code > 0 {
		micro = parsed
	}
	if micro != nil || errors.As(failed.error, &micro) {
		told["error"] = map[string]any{
			"id": micro.Id, "code": micro.Code, "detail": micro.Detail, "status": micro.Status,
		}
	} else if s, isStatus := status.FromError(failed.error); isStatus {
		details := []string{}
		for _, detail := range s.Details() {
			details = append(details, fmt.Sprintf("%T", detail))
		}
		told["status"] = map[string]any{"code": int(s.Code()), "message": s.Message(), "details": details}
	} else {
		told["other"] = fmt.Sprintf("%T: %v", failed.error, failed.error)
	}
	tell(told)
	return errTold
}
