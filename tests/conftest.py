"""Before any test module: the same environment that the product gives its libraries."""

import edge as edge
