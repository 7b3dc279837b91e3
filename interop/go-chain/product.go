package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go-micro.dev/v4"
	"go-micro.dev/v4/metadata"
	"go-micro.dev/v4/server"
	"google.golang.org/protobuf/proto"

	"micro-rs/interop/go-chain/pb"
)

const (
	productService    = "go.micro.service.Product"
	inventoryDeducted = "OnInventoryDeductSuccess"
)

// Product deducts what orders bought. go-micro takes the type's name for the gRPC service's.
type Product struct {
	db *sql.DB
	// nil where nobody is told.
	events micro.Event
}

func runProduct(s settings) error {
	db, err := openDatabase(s)
	if err != nil {
		return err
	}
	defer db.Close()
	service := newService(productService, s)
	p := &Product{db: db}
	if s.wire == "grpc" {
		if err := micro.RegisterHandler(service.Server(), p); err != nil {
			return err
		}
		return service.Run()
	}
	if s.confirm != "" {
		p.events = micro.NewEvent(s.confirm, service.Client())
	}
	queue := server.SubscriberQueue(s.group)
	if err := micro.RegisterSubscriber(s.topic, service.Server(), p.paid, queue); err != nil {
		return err
	}
	return service.Run()
}

// DeductInvetory takes an order's goods from stock for a caller that waits for it.
func (p *Product) DeductInvetory(ctx context.Context, request *pb.OrderDetailReq, reply *pb.OrderProductResp) error {
	payment := &pb.OnPaymentSuccess{OrderId: request.OrderId}
	for _, item := range request.Products {
		line := &pb.OrderDetail{ProductId: item.ProductId, SkuId: item.ProductSizeId, Quantity: uint32(item.ProductNum)}
		payment.OrderDetails = append(payment.OrderDetails, line)
	}
	if err := p.take(ctx, payment, "call-"+strconv.FormatInt(request.OrderId, 10)); err != nil {
		return err
	}
	reply.OrderId, reply.StatusCode = request.OrderId, "0000"
	return nil
}

// paid handles one payment.
func (p *Product) paid(ctx context.Context, event *pb.BaseEvent) error {
	payment := &pb.OnPaymentSuccess{}
	if err := proto.Unmarshal(event.Payload, payment); err != nil {
		return err
	}
	eventID, _ := metadata.Get(ctx, "Event_id")
	return p.take(ctx, payment, eventID)
}

// take leaves an order alone that was deducted before; of another one, one transaction takes its stock
// and notes it.
func (p *Product) take(ctx context.Context, payment *pb.OnPaymentSuccess, eventID string) error {
	var known int64
	const query = "SELECT order_id FROM order_inventory_events WHERE order_id = ? ORDER BY id LIMIT 1"
	err := p.db.QueryRowContext(ctx, query, payment.OrderId).Scan(&known)
	if !errors.Is(err, sql.ErrNoRows) {
		return err // nil for an order that was deducted before
	}
	return inTransaction(p.db, func(tx *sql.Tx) error {
		deducted := &pb.OnInventoryDeductSuccess{OrderId: payment.OrderId}
		for _, line := range payment.OrderDetails {
			if err := deduct(ctx, tx, line); err != nil {
				return err
			}
			deducted.Sku = append(deducted.Sku, &pb.SkuInfo{Id: line.SkuId, Quantity: line.Quantity})
		}
		now := time.Now()
		const insert = "INSERT INTO order_inventory_events (event_id, order_id, created_at, updated_at) VALUES (?, ?, ?, ?)"
		if _, err := tx.ExecContext(ctx, insert, eventID, payment.OrderId, now, now); err != nil || p.events == nil {
			return err
		}
		return publish(ctx, p.events, productService, inventoryDeducted, payment.OrderId, deducted)
	})
}

func deduct(ctx context.Context, tx *sql.Tx, line *pb.OrderDetail) error {
	const update = "UPDATE product_skus SET stock = stock - ?, sales = sales + ?, updated_at = ? " +
		"WHERE id = ? AND stock >= ? AND deleted_at IS NULL"
	result, err := tx.ExecContext(ctx, update, line.Quantity, line.Quantity, time.Now(), line.SkuId, line.Quantity)
	if err != nil {
		return err
	}
	changed, err := result.RowsAffected()
	if err == nil && changed != 1 {
		err = fmt.Errorf("sku %d: stock is short of %d", line.SkuId, line.Quantity)
	}
	return err
}
