package main

import (
	"crypto/rand"
	"encoding/hex"
	"flag"

	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/logger"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func init() {
	commands["drive-sagas"] = command{"sagas of two branches that are waited for, a turn for each line of its input", driveSagas}
}

// driveSagas measures DTM's client. It makes its ids itself: asking the server would be a call more.
func driveSagas(arguments []string) error {
	flags := flag.NewFlagSet("drive-sagas", flag.ExitOnError)
	dtm := flags.String("dtm", "127.0.0.1:36790", "the gRPC port of the DTM server")
	branches := flags.String("branches", "", "host:port of the branches")
	_ = flags.Parse(arguments) // ExitOnError

	// By default the client logs a line for each call, on what was stdout as it started.
	logger.InitLog("warn")
	out, in := *branches+"/busi.Busi/TransOut", *branches+"/busi.Busi/TransIn"
	return inTurns(func() error {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return err
		}
		saga := dtmgrpc.NewSagaGrpc(*dtm, hex.EncodeToString(id[:]))
		amount := &wrapperspb.StringValue{Value: "30"}
		saga.Add(out, out+"Revert", amount).Add(in, in+"Revert", amount)
		saga.WaitResult = true
		return saga.Submit()
	})
}
