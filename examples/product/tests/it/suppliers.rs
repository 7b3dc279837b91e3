//! Who supplies a SKU.

use product::proto::{GetSupplierInfoRequest, GetSupplierInfoResponse, Supplier, SupplierProduct};
use tonic::Code;

use crate::{
    databases::{Databases, on_every_database},
    desk::Desk,
};

on_every_database!(suppliers_of_a_sku_are_shown,);

fn ask(sku_code: &str) -> GetSupplierInfoRequest {
    GetSupplierInfoRequest { sku_code: sku_code.into() }
}

async fn suppliers_of_a_sku_are_shown(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1, 1]).await;
    desk.write(
        "INSERT INTO suppliers \
         (id, name, contact_person, phone, email, address, rating, lead_time_days, payment_terms, deleted_at) VALUES \
         (7, 'Acme', 'Wile', '123', 'w@acme', 'Desert 1', 4.5, 3, 'net 30', NULL), \
         (8, 'Gone', 'Nobody', '', '', '', 1, 1, '', '2026-01-01 00:00:00')",
        &[],
    )
    .await;
    desk.write(
        "INSERT INTO supplier_products (supplier_id, sku_id, supply_price, min_order_quantity, is_preferred) VALUES \
         (7, 1, 6.50, 10, 1), (8, 1, 1, 1, 0)",
        &[],
    )
    .await;
    let (app, mut client) = desk.serve().await;
    let answer = client.get_supplier_info(ask("SKU1")).await.unwrap().into_inner();
    let supplier = Supplier {
        id: 7,
        name: "Acme".into(),
        contact_person: "Wile".into(),
        phone: "123".into(),
        email: "w@acme".into(),
        address: "Desert 1".into(),
        rating: 4.5,
        lead_time_days: 3,
        payment_terms: "net 30".into(),
    };
    let offer = SupplierProduct {
        sku_code: "SKU1".into(),
        supplier_id: 7,
        supply_price: 6.5,
        min_order_quantity: 10,
        is_preferred: true,
        supplier: Some(supplier),
    };
    assert_eq!(answer, GetSupplierInfoResponse { suppliers: vec![offer] });
    assert_eq!(client.get_supplier_info(ask("SKU2")).await.unwrap().into_inner(), GetSupplierInfoResponse::default());
    assert_eq!(client.get_supplier_info(ask("")).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = client.get_supplier_info(ask("none")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("sku not found"), "{}", unknown.message());
    app.stop().await.unwrap();
}
