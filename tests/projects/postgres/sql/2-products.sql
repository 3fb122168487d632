insert into products (name, price)
select 'product ' || number, number * 1.25
from generate_series(1, 1000) as number;

analyze products;
