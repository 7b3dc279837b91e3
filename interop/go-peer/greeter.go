package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	microerrors "go-micro.dev/v4/errors"
	"go-micro.dev/v4/metadata"
	"go-micro.dev/v4/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"micro-rs/interop/go-peer/pb"
)

const errorID = "go.micro.service.greeter"

// Greeter is the handler. go-micro takes the type's name for the gRPC service's.
type Greeter struct{}

// Hello greets.
func (*Greeter) Hello(_ context.Context, request *pb.HelloRequest, reply *pb.HelloReply) error {
	reply.Greeting = "Hello " + request.Name
	return nil
}

// Fail fails in the way it is told.
func (*Greeter) Fail(_ context.Context, request *pb.FailRequest, _ *pb.HelloReply) error {
	switch request.How {
	case "micro":
		return microerrors.New(errorID, request.Detail, request.Code)
	case "plain":
		return errors.New(request.Detail)
	case "status":
		return status.Error(codes.Code(request.Code), request.Detail)
	case "panic":
		panic(request.Detail)
	case "eof":
		return io.EOF
	case "canceled":
		return context.Canceled
	case "deadline":
		return context.DeadlineExceeded
	case "missing":
		return os.ErrNotExist
	case "foreign":
		return &foreign{&pb.HelloReply{Greeting: request.Detail}}
	}
	return microerrors.BadRequest(errorID, "how %q is not known", request.How)
}

// foreign is an error that is a message of the user's own, which go-micro attaches as a detail.
type foreign struct{ *pb.HelloReply }

func (f *foreign) Error() string { return f.Greeting }

// Inspect answers with the metadata and the time that the call came with.
func (*Greeter) Inspect(ctx context.Context, _ *pb.InspectRequest, reply *pb.InspectReply) error {
	reply.TimeoutMs = -1
	if deadline, isSet := ctx.Deadline(); isSet {
		reply.TimeoutMs = time.Until(deadline).Milliseconds()
	}
	reply.Metadata, _ = metadata.FromContext(ctx)
	return nil
}

// Echo answers with what it got.
func (*Greeter) Echo(_ context.Context, request *pb.Everything, reply *pb.Everything) error {
	copyMessage(reply, request)
	return nil
}

// Wait answers after a while, or fails at the deadline.
func (*Greeter) Wait(ctx context.Context, request *pb.WaitRequest, reply *pb.HelloReply) error {
	select {
	case <-time.After(time.Duration(request.WaitMs) * time.Millisecond):
		reply.Greeting = "waited"
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Count sends the numbers from 0 to below the count.
func (*Greeter) Count(_ context.Context, stream server.Stream) error {
	request := &pb.CountRequest{}
	if err := stream.Recv(request); err != nil {
		return err
	}
	for value := int32(0); value < request.Count; value++ {
		if err := stream.Send(&pb.Number{Value: value}); err != nil {
			return err
		}
	}
	return nil
}

// Sum answers with the sum of the numbers, once their stream has ended.
func (*Greeter) Sum(_ context.Context, stream server.Stream) error {
	sum := &pb.Number{}
	for {
		number := &pb.Number{}
		switch err := stream.Recv(number); {
		case err == io.EOF:
			return stream.Send(sum)
		case err != nil:
			return err
		}
		sum.Value += number.Value
	}
}

// Chat greets each name as it comes.
func (*Greeter) Chat(_ context.Context, stream server.Stream) error {
	for {
		request := &pb.HelloRequest{}
		switch err := stream.Recv(request); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(&pb.HelloReply{Greeting: "Hello " + request.Name}); err != nil {
			return err
		}
	}
}
