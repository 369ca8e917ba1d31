# The web app: docker build -t dpr-jax . && docker run --rm -p 127.0.0.1:7860:7860 dpr-jax
# With a GPU: docker build --build-arg EXTRAS=app,cuda12 -t dpr-jax . && docker run --rm --gpus=all -p ... dpr-jax
# Another command: docker run --rm -v "$PWD:/photos" -w /photos dpr-jax relight --image=photo.jpg --light=left --out=relit.jpg
FROM python:3.11-slim

ARG EXTRAS=app

# What the OpenCV wheel links against.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
  && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY LICENSE NOTICE README.md pyproject.toml setup.py ./
COPY data_gen data_gen
COPY dpr_jax dpr_jax
RUN pip install --no-cache-dir ".[${EXTRAS}]"

RUN useradd --create-home relight
USER relight
WORKDIR /home/relight

EXPOSE 7860
ENTRYPOINT ["dpr-jax"]
CMD ["app", "--host=0.0.0.0", "--port=7860"]
