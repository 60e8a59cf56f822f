"""Large message bodies in an object store beside the link."""
