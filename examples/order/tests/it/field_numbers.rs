//! The wire of both services, beside that of the Go services.

use std::collections::BTreeSet;

use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

/// What the Go services' generated code has: message, field, type, number. A message that only the
/// fields are known of has our name; it is not on the wire.
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
product.event.SkuInfo: Id int64 1, Quantity uint32 2, Stock uint32 3, Threshold uint32 4
go.micro.service.ProductInfo: id int64 1, product_name string 2, product_sku string 3, product_price double 4, \
product_description string 5, product_category_id int64 6
go.micro.service.ResponseProduct: product_id int64 1
go.micro.service.GetProductSkuDetailRequest: sku_id int64 1
go.micro.service.GetProductSkuDetailResponse: id int64 1, product_id int64 2, sku_no string 3, sku_name string 4, \
spec_value_ids string 5, spec_value_text string 6, price double 7, market_price double 8, stock uint32 9, \
stock_warn uint32 10, sales int32 11, main_image string 12, status int32 13, created_at string 14, \
updated_at string 15, product message 16, images message 17
go.micro.service.ProductBasicInfo: id int64 1, product_no string 2, product_name string 3, main_image string 4, \
description string 5
go.micro.service.SkuImageInfo: id int64 1, image_url string 2, is_main bool 3, display_order int32 4
go.micro.service.CheckSkuInventoryThresholdRequest: sku_ids int64 1, threshold uint32 2
go.micro.service.CheckSkuInventoryThresholdResponse: results message 1
go.micro.service.SkuInventoryThreshold: sku_id int64 1, sku_no string 2, sku_name string 3, stock uint32 4, \
threshold uint32 5, is_sufficient bool 6
go.micro.service.GetSkuStockBySkuNoRequest: sku_code string 1
go.micro.service.GetSkuStockBySkuNoResponse: sku_code string 1, name string 2, stock uint32 3, status int32 4, \
stock_warn uint32 5
go.micro.service.CreateRestockApplyRequest: sku_id string 1, user_id int32 2, quantity int32 3, reason string 4
go.micro.service.CreateRestockApplyResponse: restock_record message 1, sku_info message 2
go.micro.service.RestockRecord: id int64 1, user_id int32 2, sku_id uint64 3, quantity int32 4, reason string 5, \
status uint32 6, failed_reason string 7, created_at string 8
go.micro.service.RestockSkuInfo: id int64 1, sku_no string 2, sku_name string 3, spec_value_text string 4
go.micro.service.GetSkuSalesVolumeRequest: sku_code string 1, start_time string 2, end_time string 3
go.micro.service.GetSkuSalesVolumeResponse: sku_code string 1, sales_volume int64 2, daily_avg_sales double 3
go.micro.service.GetSupplierInfoRequest: sku_code string 1
go.micro.service.GetSupplierInfoResponse: suppliers message 1
go.micro.service.SupplierProduct: sku_code string 1, supplier_id int64 2, supply_price double 3, \
min_order_quantity int32 4, is_preferred bool 5, supplier message 6
go.micro.service.Supplier: id int64 1, name string 2, contact_person string 3, phone string 4, email string 5, \
address string 6, rating double 7, lead_time_days int32 8, payment_terms string 9
go.micro.service.GetRestockApplyInfoRequest: application_no string 1, user_id int32 2
go.micro.service.GetRestockApplyInfoResponse: id int64 1, sku_id int64 2, quantity int32 3, reason string 4, \
status uint32 5, application_no string 6, audit message 7
go.micro.service.RestockAudit: id int64 1, restock_id int64 2, audit_user_id uint32 3, audit_status uint32 4, \
audit_failed_reason string 5, created_at string 6, updated_at string 7
go.micro.service.GetSkuDailySalesRequest: sku_code string 1, start_date string 2, end_date string 3
go.micro.service.GetSkuDailySalesResponse: daily_sales message 1
go.micro.service.SkuDailySales: sku_code string 1, sales_volume int64 2, date string 3";

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
