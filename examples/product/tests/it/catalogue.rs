//! The calls, over gRPC on loopback.

use product::proto::{
    CheckSkuInventoryThresholdRequest, GetProductSkuDetailRequest, GetSkuStockBySkuNoRequest, ProductInfo,
};
use tonic::Code;

use crate::{
    databases::{Databases, on_every_database},
    desk::Desk,
};

on_every_database!(
    a_product_is_added_with_every_field,
    a_sku_is_shown_with_its_images,
    thresholds_and_stocks_are_answered,
);

fn phone(number: &str) -> ProductInfo {
    ProductInfo {
        id: 0,
        product_name: "Phone".into(),
        product_sku: number.into(),
        product_price: 1999.9,
        product_description: "black".into(),
        product_category_id: 3,
    }
}

/// Wire fault 9.24: every field was lost, and the second call failed on the empty number.
async fn a_product_is_added_with_every_field(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[]).await;
    let (app, mut client) = desk.serve().await;
    let first = client.add_product(phone("P-1")).await.unwrap().into_inner().product_id;
    let second = client.add_product(phone("P-2")).await.unwrap().into_inner().product_id;
    assert_ne!(first, second);
    assert_eq!(client.add_product(phone("P-1")).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(client.add_product(phone("")).await.unwrap_err().code(), Code::InvalidArgument);
    let priceless = ProductInfo { product_price: f64::NAN, ..phone("P-3") };
    assert_eq!(client.add_product(priceless).await.unwrap_err().code(), Code::InvalidArgument);

    let sku_id = desk.number("SELECT id FROM product_skus WHERE sku_no = 'P-1'").await;
    let detail = client.get_product_sku_detail(GetProductSkuDetailRequest { sku_id }).await.unwrap().into_inner();
    assert_eq!((detail.product_id, detail.sku_no.as_str(), detail.price), (first, "P-1", 1999.9));
    assert_eq!((detail.stock, detail.stock_warn, detail.status), (0, 10, 1));
    assert_eq!(detail.created_at.len(), "2006-01-02 15:04:05".len());
    let product = detail.product.unwrap();
    assert_eq!((product.product_no.as_str(), product.description.as_str()), ("P-1", "black"));
    assert_eq!(desk.number("SELECT category_id FROM products WHERE product_no = 'P-1'").await, 3);
    app.stop().await.unwrap();
}

async fn a_sku_is_shown_with_its_images(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    desk.write(
        "INSERT INTO sku_images (sku_id, image_url, is_main, display_order) VALUES (1, 'b.png', 0, 2), (1, 'a.png', 1, 1)",
        &[],
    )
    .await;
    let (app, mut client) = desk.serve().await;
    let detail = client.get_product_sku_detail(GetProductSkuDetailRequest { sku_id: 1 }).await.unwrap().into_inner();
    let images: Vec<_> = detail.images.iter().map(|image| (image.image_url.as_str(), image.is_main)).collect();
    assert_eq!(images, [("a.png", true), ("b.png", false)]);
    let unknown = client.get_product_sku_detail(GetProductSkuDetailRequest { sku_id: 9 }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("sku_id=9"), "{}", unknown.message());
    app.stop().await.unwrap();
}

async fn thresholds_and_stocks_are_answered(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10, 3, 50]).await;
    desk.write("UPDATE product_skus SET status = 0 WHERE id = 3", &[]).await;
    let (app, mut client) = desk.serve().await;
    let ask = |threshold| CheckSkuInventoryThresholdRequest { sku_ids: vec![2, 1, 3, 99], threshold };
    let own = client.check_sku_inventory_threshold(ask(0)).await.unwrap().into_inner().results;
    let own: Vec<_> = own.iter().map(|sku| (sku.sku_id, sku.threshold, sku.is_sufficient)).collect();
    assert_eq!(own, [(1, 3, true), (2, 3, true)]);
    for (asked, sufficient) in [(10, [true, false]), (11, [false, false])] {
        let answered = client.check_sku_inventory_threshold(ask(asked)).await.unwrap().into_inner().results;
        assert!(answered.iter().all(|sku| sku.threshold == asked));
        assert_eq!(answered.iter().map(|sku| sku.is_sufficient).collect::<Vec<_>>(), sufficient);
    }
    let nobody = CheckSkuInventoryThresholdRequest { sku_ids: vec![], threshold: 0 };
    assert_eq!(client.check_sku_inventory_threshold(nobody).await.unwrap().into_inner().results, []);
    let too_many = CheckSkuInventoryThresholdRequest { sku_ids: vec![1; 1001], threshold: 0 };
    let refused = client.check_sku_inventory_threshold(too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let by_number = |number: &str| GetSkuStockBySkuNoRequest { sku_code: number.into() };
    let stock = client.get_sku_stock_by_sku_no(by_number("SKU3")).await.unwrap().into_inner();
    assert_eq!((stock.stock, stock.status, stock.stock_warn), (50, 0, 3));
    assert_eq!(client.get_sku_stock_by_sku_no(by_number("")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.get_sku_stock_by_sku_no(by_number("none")).await.unwrap_err().code(), Code::NotFound);
    app.stop().await.unwrap();
}
