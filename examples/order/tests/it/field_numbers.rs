//! The wire of both services, beside that of the Go services.

use std::collections::BTreeSet;

use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

/// What the Go services' generated code has: message, field, number, type.
const OF_GO: &str = "\
go.micro.service.OrderId: order_id int64 1
go.micro.service.OrderInfo: id int64 1, pay_status int32 2, ship_status int32 3, price double 4, order_detail message 5
go.micro.service.OrderDetail: id int64 1, product_id int64 2, product_num int32 3, product_size_id int64 4, \
product_price int64 5, order_id int64 6
go.micro.service.PayNotifyRequest: OutTradeNo string 1, TradeNo string 2, StatusCode string 3
go.micro.service.PayNotifyResponse: StatusCode string 1, Msg string 2
order.event.OnPaymentSuccess: OrderId int64 1, OrderDetails message 2
order.event.OrderDetail: product_id int64 1, sku_id int64 2, quantity uint32 3
product.event.OnInventoryDeductSuccess: OrderId int64 1, Sku message 2
go.micro.service.OrderDetailReq: order_id int64 1, products message 2
go.micro.service.ProductInvetoryItem: product_id int64 1, product_num int64 2, product_size_id int64 3
go.micro.service.OrderProductResp: order_id int64 1, StatusCode string 2
product.event.SkuInfo: Id int64 1, Quantity uint32 2, Stock uint32 3, Threshold uint32 4";

#[test]
fn field_numbers_are_those_of_the_go_services() {
    let of_ours: BTreeSet<String> = [order::wire::DESCRIPTORS, product::wire::DESCRIPTORS]
        .into_iter()
        .flat_map(|descriptors| messages(&<FileDescriptorSet as prost::Message>::decode(descriptors).unwrap()))
        .collect();
    for message in OF_GO.lines() {
        assert!(of_ours.contains(message), "{message}\nis not among\n{of_ours:#?}");
    }
}

/// A line a message.
fn messages(set: &FileDescriptorSet) -> Vec<String> {
    let in_files = set.file.iter().flat_map(|file| file.message_type.iter().map(|message| (file.package(), message)));
    in_files
        .map(|(package, message)| {
            let fields = message.field.iter().map(|field| {
                let type_name = Type::as_str_name(&field.r#type()).trim_start_matches("TYPE_").to_ascii_lowercase();
                format!("{} {type_name} {}", field.name(), field.number())
            });
            format!("{package}.{}: {}", message.name(), fields.collect::<Vec<_>>().join(", "))
        })
        .collect()
}
