//! The gRPC service `Product`: requests to use cases, answers and errors back.

use micro_core::{Error, ErrorKind, Result};
use micro_grpc::to_status;
use tonic::{Request, Response, Status};

use super::wire::service::{
    CheckSkuInventoryThresholdRequest, CheckSkuInventoryThresholdResponse, GetProductSkuDetailRequest,
    GetProductSkuDetailResponse, GetSkuStockBySkuNoRequest, GetSkuStockBySkuNoResponse, ProductBasicInfo, ProductInfo,
    ResponseProduct, SkuImageInfo, SkuInventoryThreshold, product_server::Product as ProductService,
};
use crate::{
    application::{AddProduct, FindSkus},
    domain::{Catalogue, Money, NewProduct, SkuDetail, SkuLevel},
};

/// Answers the calls of the product service.
pub struct ProductGrpc<C> {
    add_product: AddProduct<C>,
    find_skus: FindSkus<C>,
}

impl<C: Catalogue> ProductGrpc<C> {
    /// The calls over these use cases.
    pub fn new(add_product: AddProduct<C>, find_skus: FindSkus<C>) -> Self {
        Self { add_product, find_skus }
    }

    async fn add(&self, request: ProductInfo) -> Result<ResponseProduct> {
        let product = NewProduct {
            price: price(request.product_price)?,
            number: request.product_sku,
            name: request.product_name,
            description: request.product_description,
            category_id: request.product_category_id,
        };
        Ok(ResponseProduct { product_id: self.add_product.add(product).await? })
    }
}

#[tonic::async_trait]
impl<C: Catalogue> ProductService for ProductGrpc<C> {
    async fn add_product(&self, request: Request<ProductInfo>) -> Result<Response<ResponseProduct>, Status> {
        self.add(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_product_sku_detail(
        &self,
        request: Request<GetProductSkuDetailRequest>,
    ) -> Result<Response<GetProductSkuDetailResponse>, Status> {
        let found = self.find_skus.detail(request.into_inner().sku_id).await.map_err(to_status)?;
        Ok(Response::new(sku_detail(found)))
    }

    async fn check_sku_inventory_threshold(
        &self,
        request: Request<CheckSkuInventoryThresholdRequest>,
    ) -> Result<Response<CheckSkuInventoryThresholdResponse>, Status> {
        let CheckSkuInventoryThresholdRequest { sku_ids, threshold } = request.into_inner();
        let levels = self.find_skus.levels(&sku_ids).await.map_err(to_status)?;
        let results = levels.into_iter().map(|level| sku_threshold(level, threshold)).collect();
        Ok(Response::new(CheckSkuInventoryThresholdResponse { results }))
    }

    async fn get_sku_stock_by_sku_no(
        &self,
        request: Request<GetSkuStockBySkuNoRequest>,
    ) -> Result<Response<GetSkuStockBySkuNoResponse>, Status> {
        let level = self.find_skus.level_of(&request.into_inner().sku_code).await.map_err(to_status)?;
        Ok(Response::new(GetSkuStockBySkuNoResponse {
            sku_code: level.sku_no,
            name: level.name,
            stock: level.stock,
            status: level.status,
            stock_warn: level.stock_warn,
        }))
    }
}

/// The nearest cent; a double that is no price is refused.
fn price(price: f64) -> Result<Money> {
    let cents = (price * 100.0).round();
    // Doubles hold every whole number up to 2⁵³ exactly: more cents than any price has.
    if !cents.is_finite() || cents.abs() > 9_007_199_254_740_992.0 {
        let message = "product_price is not a price: expected a finite number of moderate size";
        return Err(Error::new(ErrorKind::InvalidArgument, "product.add", message).with_context("price", price));
    }
    Ok(Money::from_cents(cents as i64))
}

fn sku_detail(found: SkuDetail) -> GetProductSkuDetailResponse {
    let SkuDetail { level, product_id, .. } = found;
    GetProductSkuDetailResponse {
        id: level.sku_id,
        product_id,
        sku_no: level.sku_no,
        sku_name: level.name,
        spec_value_ids: found.spec_value_ids,
        spec_value_text: found.spec_value_text,
        price: found.price.to_f64(),
        market_price: found.market_price.to_f64(),
        stock: level.stock,
        stock_warn: level.stock_warn,
        sales: found.sales,
        main_image: found.main_image,
        status: level.status,
        created_at: found.created_at,
        updated_at: found.updated_at,
        product: Some(ProductBasicInfo {
            id: product_id,
            product_no: found.product_no,
            product_name: found.product_name,
            main_image: found.product_main_image,
            description: found.product_description,
        }),
        images: found
            .images
            .into_iter()
            .map(|image| SkuImageInfo {
                id: image.id,
                image_url: image.url,
                is_main: image.is_main,
                display_order: image.display_order,
            })
            .collect(),
    }
}

fn sku_threshold(level: SkuLevel, asked: u32) -> SkuInventoryThreshold {
    SkuInventoryThreshold {
        threshold: level.threshold(asked),
        is_sufficient: level.is_sufficient(asked),
        sku_id: level.sku_id,
        sku_no: level.sku_no,
        sku_name: level.name,
        stock: level.stock,
    }
}
