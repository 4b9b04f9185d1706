# The API, the worker and the operators' commands in one image: `holdfast COMMAND`.
# No test runs this file. Versions are those of constraints.txt, with which the tests run.

FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/holdfast
# What the project needs changes less often than the project: a layer of its own.
COPY constraints.txt ./
RUN /opt/holdfast/bin/pip install --no-cache-dir --upgrade pip
COPY pyproject.toml README.md LICENSE ./
COPY lua ./lua
COPY settlement ./settlement
COPY src ./src
RUN /opt/holdfast/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM python:3.11-slim
# A number, so that an orchestrator can see that it is not root.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8080
# `serve` and `settle` end gracefully on SIGTERM, which is what Docker sends.
ENTRYPOINT ["holdfast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
