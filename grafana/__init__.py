"""What Grafana and Prometheus need to show and watch the pools: see README.md beside this file."""
