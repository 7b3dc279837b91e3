package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"go-micro.dev/v4"
	"go-micro.dev/v4/client"
	"go-micro.dev/v4/server"
	"google.golang.org/protobuf/proto"

	"micro-rs/interop/go-chain/pb"
)

const (
	orderService   = "go.micro.service.Order"
	paymentSuccess = "OnPaymentSuccess"
	deductMethod   = "Product.DeductInvetory"
	processing     = 3
	paid           = 4
	readyToShip    = 2
)

// Order answers payment callbacks. go-micro takes the type's name for the gRPC service's.
type Order struct {
	db     *sql.DB
	events micro.Event
	// nil where goods are deducted by events.
	products client.Client
}

func runOrder(s settings) error {
	db, err := openDatabase(s)
	if err != nil {
		return err
	}
	defer db.Close()
	service := newService(orderService, s)
	order := &Order{db: db, events: micro.NewEvent(s.topic, service.Client())}
	if s.wire == "grpc" {
		order.products = service.Client()
	}
	if err := micro.RegisterHandler(service.Server(), order); err != nil {
		return err
	}
	if s.confirm != "" {
		queue := server.SubscriberQueue(s.group)
		if err := micro.RegisterSubscriber(s.confirm, service.Server(), order.deducted, queue); err != nil {
			return err
		}
	}
	return service.Run()
}

// PayNotify takes one callback: two reads, then one transaction that marks the order and hands the
// event to the producer, or has the goods deducted.
func (o *Order) PayNotify(ctx context.Context, request *pb.PayNotifyRequest, reply *pb.PayNotifyResponse) error {
	if request.OutTradeNo == "" {
		return errors.New("outTradeNo cannot be empty")
	}
	id, isDone, err := o.find(ctx, request.OutTradeNo)
	if err != nil {
		return err
	}
	lines, err := o.lines(ctx, id)
	if err != nil {
		return err
	}
	if !isDone && o.products != nil {
		err = inTransaction(o.db, func(tx *sql.Tx) error { return o.settle(ctx, tx, id, lines) })
		if err != nil {
			return err
		}
	} else if !isDone {
		err = inTransaction(o.db, func(tx *sql.Tx) error {
			const update = "UPDATE orders SET pay_status = ?, updated_at = ? WHERE id = ? AND deleted_at IS NULL"
			if _, err := tx.ExecContext(ctx, update, processing, time.Now(), id); err != nil {
				return err
			}
			return o.publish(ctx, id, lines)
		})
		if err != nil {
			return err
		}
	}
	reply.StatusCode, reply.Msg = "0000", "SUCCESS"
	return nil
}

// settle marks the order and calls the product service before the transaction ends.
func (o *Order) settle(ctx context.Context, tx *sql.Tx, id int64, lines []*pb.OrderDetail) error {
	const update = "UPDATE orders SET pay_status = ?, ship_status = ?, pay_time = ?, updated_at = ? " +
		"WHERE id = ? AND deleted_at IS NULL"
	now := time.Now()
	if _, err := tx.ExecContext(ctx, update, paid, readyToShip, now, now, id); err != nil {
		return err
	}
	body := &pb.OrderDetailReq{OrderId: id}
	for _, line := range lines {
		item := &pb.ProductInvetoryItem{
			ProductId: line.ProductId, ProductNum: int64(line.Quantity), ProductSizeId: line.SkuId,
		}
		body.Products = append(body.Products, item)
	}
	reply := &pb.OrderProductResp{}
	if err := o.products.Call(ctx, o.products.NewRequest(productService, deductMethod, body), reply); err != nil {
		return err
	}
	if reply.StatusCode != "0000" {
		return fmt.Errorf("order %d: the product service answers %q", id, reply.StatusCode)
	}
	return nil
}

func (o *Order) find(ctx context.Context, code string) (id int64, isDone bool, err error) {
	const query = "SELECT id, pay_status, pay_time FROM orders WHERE order_code = ? AND deleted_at IS NULL ORDER BY id LIMIT 1"
	var status int
	var paid sql.NullString
	err = o.db.QueryRowContext(ctx, query, code).Scan(&id, &status, &paid)
	return id, paid.Valid || status >= processing, err
}

func (o *Order) lines(ctx context.Context, id int64) ([]*pb.OrderDetail, error) {
	const query = "SELECT sku_id, product_id, quantity FROM order_details WHERE order_id = ? AND deleted_at IS NULL"
	rows, err := o.db.QueryContext(ctx, query, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var lines []*pb.OrderDetail
	for rows.Next() {
		line := &pb.OrderDetail{}
		if err := rows.Scan(&line.SkuId, &line.ProductId, &line.Quantity); err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, rows.Err()
}

func (o *Order) publish(ctx context.Context, id int64, lines []*pb.OrderDetail) error {
	payment := &pb.OnPaymentSuccess{OrderId: id, OrderDetails: lines}
	return publish(ctx, o.events, orderService, paymentSuccess, id, payment)
}

// deducted notes that an order's goods were taken from stock; one that is noted stays as it is.
func (o *Order) deducted(ctx context.Context, event *pb.BaseEvent) error {
	if event.EventType != inventoryDeducted {
		return nil
	}
	deducted := &pb.OnInventoryDeductSuccess{}
	if err := proto.Unmarshal(event.Payload, deducted); err != nil {
		return err
	}
	const update = "UPDATE orders SET pay_status = ?, ship_status = ?, pay_time = ?, updated_at = ? " +
		"WHERE id = ? AND pay_status = ? AND deleted_at IS NULL"
	now := time.Now()
	_, err := o.db.ExecContext(ctx, update, paid, readyToShip, now, now, deducted.OrderId, processing)
	return err
}
