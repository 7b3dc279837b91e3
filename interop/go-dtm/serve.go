package main

import (
	"context"
	"database/sql"
	"flag"
	"net"
	"strings"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	_ "github.com/go-sql-driver/mysql"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func init() {
	commands["serve"] = command{"a participant of sagas over gRPC, with DTM's barrier on MariaDB", serve}
	commands["branches"] = command{"branches of sagas over gRPC that do nothing", branches}
}

// tellers moves money on the table accounts behind DTM's barrier; methods whose name has Out in it take
// from the account out, others give to the account in, and those that end in Revert undo it.
type tellers struct {
	database *sql.DB
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	dsn := flags.String("dsn", "", "where the database is, as the driver writes it")
	table := flags.String("table", "dtm_barrier.barrier", "the barrier's table")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	dtmcli.SetBarrierTableName(*table)
	database, err := sql.Open("mysql", *dsn)
	if err != nil {
		return err
	}
	defer database.Close()
	tellers := &tellers{database}
	return serveBusi(tellers.move)
}

func branches(arguments []string) error {
	flags := flag.NewFlagSet("branches", flag.ExitOnError)
	_ = flags.Parse(arguments) // ExitOnError
	return serveBusi(func(context.Context, string, string) error { return nil })
}

// serveBusi serves methods that are this function, with their name and the amount, and says where.
func serveBusi(work func(ctx context.Context, name string, amount string) error) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	description := grpc.ServiceDesc{ServiceName: "busi.Busi", HandlerType: (*any)(nil)}
	for _, name := range []string{"TransOut", "TransOutRevert", "TransIn", "TransInRevert"} {
		description.Methods = append(description.Methods, method(name, work))
	}
	server.RegisterService(&description, nil)
	tell(map[string]any{"ready": map[string]any{"address": listener.Addr().String()}})
	return server.Serve(listener)
}

// method is one of a service whose messages need no file of their own: the amount as a text.
func method(name string, work func(context.Context, string, string) error) grpc.MethodDesc {
	handler := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var amount wrapperspb.StringValue
		if err := decode(&amount); err != nil {
			return nil, err
		}
		if err := work(ctx, name, amount.Value); err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, nil
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

func (t *tellers) move(ctx context.Context, name string, amount string) error {
	barrier, err := dtmgrpc.BarrierFromGrpc(ctx)
	if err != nil {
		return err
	}
	account, takes := "in", strings.HasSuffix(name, "Revert")
	if strings.HasPrefix(name, "TransOut") {
		account, takes = "out", !takes
	}
	statement := "UPDATE accounts SET balance = balance + ? WHERE name = ?"
	if takes {
		statement = "UPDATE accounts SET balance = balance - ? WHERE name = ?"
	}
	mayRefuse := !strings.HasSuffix(name, "Revert")
	called := false
	err = barrier.CallWithDB(t.database, func(tx *sql.Tx) error {
		called = true
		if _, err := tx.Exec(statement, amount, account); err != nil {
			return err
		}
		var balance int64
		if err := tx.QueryRow("SELECT balance FROM accounts WHERE name = ?", account).Scan(&balance); err != nil {
			return err
		}
		if balance < 0 && mayRefuse {
			return status.Error(codes.Aborted, "Insufficient balance")
		}
		return nil
	})
	tell(map[string]any{"branch": barrier.BranchID, "op": barrier.Op, "called": called, "done": err == nil})
	return err
}
